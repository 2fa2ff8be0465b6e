"""``dwt-train --help``: what the command does, what can be chosen, where things go."""

import textwrap

from dwt_cli import settings

_HEAD = """\
dwt-train: train a large masked language model with the help of a smaller, weaker one
(Distillation from Weak Teacher, arXiv 2305.18239).

  dwt-train                                       teacher=small student=large alpha=decay
  dwt-train teacher=none                          the stand-alone student, to compare with
  dwt-train teacher=very_weak alpha=strong remap=paper seed=3
  dwt-train teacher=checkpoint teacher.path=DIR data=files data.path='books/*.txt' \\
            scale.vocab_size=30522                a model and text of your own
  dwt-train -m seed=0,1,2 teacher=none,small      every combination, one after the other

Choose with GROUP=CHOICE (* is the default), change one setting with GROUP.SETTING=VALUE:
"""

_TAIL = """
A run lives in runs/<what it is>-<fingerprint>: metrics.jsonl, summary.json, curves.png, and
model/ in the format of the transformers library. The same command finds its run again and goes on
where it stopped, or prints its summary; run.fresh=true starts anew (the old record is kept).
run.root=DIR moves the runs. Prepared text and teachers are kept in the user's cache folder;
run.cache=DIR moves it. Ctrl-C finishes the step and writes a checkpoint; twice stops at once.
SIGTERM and SIGUSR1 do the same (exit codes 130, 143, 138). run.export=true saves the model of the
newest checkpoint, run.schedule=true draws the loss weights over time without training. dwt-runs
lists the runs; dwt-cache lists and cleans what is prepared.

  --cfg job          print the composed settings and stop    --cfg job --resolve: with values
  --info defaults    print where each of them comes from
  --hydra-help       Hydra's own options (multirun, completion)
  TAB completion:    eval "$(dwt-train --shell-completion install=bash)"
"""


def guide(width: int = 98) -> str:
    """The help text."""
    chosen = settings.defaults()
    lines = []
    order = [*chosen, *sorted(settings.groups().keys() - chosen.keys())]
    for group in order:
        lines.append(f"{group}/")
        for choice in settings.groups()[group]:
            mark = "*" if chosen.get(group) == choice else " "
            lines += textwrap.wrap(
                settings.about(group, choice),
                width,
                initial_indent=f"  {mark} {choice:<16}",
                subsequent_indent=" " * 20,
            ) or [f"  {mark} {choice}"]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
