"""``--help`` of each command: what the command does, what can be chosen, where things go."""

import textwrap
from collections.abc import Collection

from dwt_cli.config import files

TRAIN_HEAD = """\
dwt-train: train a large language model with the help of a smaller, weaker one
(Distillation from Weak Teacher, arXiv 2305.18239).

  dwt-train                                       teacher=small student=large alpha=decay
  dwt-train teacher=none                          the stand-alone student, to compare with
  dwt-train teacher=very_weak alpha=strong remap=paper seed=3
  dwt-train teacher=checkpoint teacher.path=DIR data=files data.path='books/*.txt' \\
            scale.vocab_size=30522                a model and text of your own
  dwt-train -m seed=0,1,2 teacher=none,small      every combination, each a process of its own
  dwt-train --config-name teacher_quality         a study: its arms, seeds and lengths, a report

Choose with GROUP=CHOICE (* is the default), change one setting with GROUP.SETTING=VALUE:
"""

TRAIN_TAIL = """
A run lives in runs/<what it is>-<fingerprint>: metrics.jsonl, summary.json, curves.png, and
model/ in the format of the transformers library. The same command finds its run again and goes on
where it stopped, or prints its summary; run.fresh=true starts anew (the old record is kept).
run.root=DIR moves the runs, run.name=NAME names one. Prepared text and teachers are kept in the
user's cache folder; run.cache=DIR moves it. Ctrl-C finishes the step and writes a checkpoint; twice
stops at once. SIGTERM, SIGUSR1 and SIGUSR2 do the same (exit codes 130, 143, 138, 140).
run.export=true saves the model of the newest checkpoint, run.schedule=true draws the loss weights
over time without training. dwt-runs lists the runs; dwt-cache lists and cleans what is prepared.

Studies (--config-name, or -cn): {sweeps}.
A study trains what is missing, goes on after a failed run, and ends in a report below
runs/studies (dwt-report makes it anew). Its axes are settings: arm=weak,decay seed=0,1 length=300.

  --cfg job          print the composed settings and stop    --cfg job --resolve: with values
  --info defaults    print where each of them comes from
  --hydra-help       Hydra's own options (multirun, completion)
  TAB completion:    eval "$(dwt-train --shell-completion install=bash)"
"""


EVAL_HEAD = """\
dwt-eval: measure a language model, from a folder or from the hub

  dwt-eval model=runs/.../model                        held-out loss, perplexity and accuracy
  dwt-eval model=DIR eval=glue eval.glue.path=GLUE     the GLUE average (without path: the hub's)
  dwt-eval model=DIR eval=glue eval.glue.tasks=[RTE,CoLA] eval.glue.protocol=quick
  dwt-eval model=google-bert/bert-base-uncased eval=all

GLUE's protocols: sane (5 epochs, lr 4e-5, batch 16, cosine), bert (its grid of 4 learning rates),
quick (1,000 examples, for small models on a CPU). dwt-train takes the same eval=..., for the model
that it trains, and with eval.at=[0.25,0.5,1] for moments of its training.

Choose with GROUP=CHOICE (* is the default), change one setting with GROUP.SETTING=VALUE:
"""

EVAL_TAIL = """
What is computed is kept (run.cache) by the model's content, task, protocol and seed, so the same
command goes on with what is missing. The scores are written to eval-.../scores.json below run.root.
"""


EVAL_GROUPS = ("eval", "data", "task", "scale", "train", "tracker", "launch")


def train() -> str:
    """Return the help text of ``dwt-train``."""
    sweeps = ", ".join(files.sweeps())
    return TRAIN_HEAD + _choices("config") + TRAIN_TAIL.replace("{sweeps}", sweeps)


def evaluate() -> str:
    """Return the help text of ``dwt-eval``: of the groups those that it heeds."""
    return EVAL_HEAD + _choices("evaluate", EVAL_GROUPS) + EVAL_TAIL


def _choices(primary: str, known: Collection[str] | None = None, width: int = 98) -> str:
    """Return a line for each choice of the known groups, the primary config's own choice marked."""
    chosen, groups = files.defaults(primary), files.groups()
    lines = []
    for group in [*chosen, *sorted(groups.keys() - chosen.keys())]:
        if known is not None and group not in known:
            continue
        lines.append(f"{group}/")
        for choice in groups[group]:
            mark = "*" if chosen.get(group) == choice else " "
            lines += textwrap.wrap(
                files.about(group, choice),
                width,
                initial_indent=f"  {mark} {choice:<15} ",
                subsequent_indent=" " * 20,
            ) or [f"  {mark} {choice}"]
    return "\n".join(lines) + "\n"
