"""``dwt-advise``: asks the record, launch and the study's rooms whether a teacher pays."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from dwt_cli.base.errors import UserError
from dwt_cli.config.advise import Advising
from dwt_cli.config.compose import runs_of
from dwt_cli.config.launch import Start
from dwt_cli.launch.process import loading
from dwt_cli.launch.start import starter


def advise(asked: Namespace, arguments: Sequence[str]) -> int:
    """Compose what is asked about, and hand it over; return the exit code."""
    if asked.multirun:
        raise UserError("-m: an advice is about one run; leave it out")
    if asked.config_name not in (None, "advise"):
        raise UserError(f"--config-name {asked.config_name}: an advice has its own; leave it out")
    for word in asked.overrides:
        if OverridesParser.create().parse_override(word).is_sweep_override():
            raise UserError(f"{word}: an advice has one value of each setting; choose one of them")
    (run,), _ = runs_of(asked.overrides, Advising, "advise", asked.config_dir)
    assert isinstance(run, Advising)
    begins = run.run.mode.trains  # a plan begins no process
    with starter(run.jobs.start if begins else Start.fresh) as begin:
        with loading():
            from dwt_cli.launch.advice import carry_out
        return carry_out(run, asked.overrides, asked.config_dir, arguments, Console(), begin)


def score(asked: Namespace) -> int:
    """Print what was forecast beside what was trained since; return the exit code."""
    if asked.multirun:
        raise UserError("-m: --score is about all forecasts; leave it out")
    (run,), _ = runs_of(asked.overrides, Advising, "advise", asked.config_dir)
    from dwt_cli.study.advice_page import print_rows  # the help pays for no frames
    from dwt_cli.study.scored import scores

    root = Path(run.run.root).expanduser()
    if not (rows := scores(root)):
        raise UserError(
            f"run.root={root}: there is no forecast; set run.root to where one was made"
        )
    print_rows(Console(), rows, "what was forecast, and what came (one run); * was advised")
    return 0
