"""A command: compose its words, check what they ask for, hand over to launch. Imports no torch."""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial

from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from dwt_cli.base import interrupt
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import MISTAKE, Reported, UserError
from dwt_cli.cli import overrides
from dwt_cli.cli.advise import advise, score
from dwt_cli.config import check, explain, files
from dwt_cli.config.advise import ADVISE_SETTINGS, Advising
from dwt_cli.config.chain import OF_ALL, Chained
from dwt_cli.config.compose import register, runs_of
from dwt_cli.config.launch import Basic, Start
from dwt_cli.config.run import EVAL_SETTINGS, GROUPS_AND_SETTINGS, Evaluation, Mode, Run, Study
from dwt_cli.launch import clone
from dwt_cli.launch.dispatch import start
from dwt_cli.launch.process import loading
from dwt_cli.launch.start import starter

_PROGRAMS: dict[str, tuple[str, type[Run], Sequence[str]]] = {
    "dwt-train": ("config", Run, GROUPS_AND_SETTINGS),
    "dwt-eval": ("evaluate", Evaluation, EVAL_SETTINGS),
    "dwt-advise": ("advise", Advising, ADVISE_SETTINGS),
}
"""The config that each composes, its type, and the first words of its settings."""


def carry_out(program: str, arguments: list[str]) -> int:
    """Compose and check every run before one begins; return the exit code."""
    primary, root, known = _PROGRAMS[program]
    scores = root is Advising and "--score" in arguments
    arguments = [word for word in arguments if not (scores and word == "--score")]

    def work() -> int:
        with interrupt.stoppable():
            asked = overrides.read(arguments, known)
            is_study = files.is_study(asked.config_name, asked.config_dir)
            is_chain = files.is_chain(asked.config_name, asked.config_dir)
            root_here = Study if is_study else Chained if is_chain else root
            if asked.cfg or asked.info or asked.hydra_help or asked.shell_completion:
                several = ("run", "multirun", "cfg", "info", "shell_completion")
                if len(typed := [each for each in several if getattr(asked, each)]) > 1:
                    flags = ", ".join(f"--{each}" for each in typed)
                    raise UserError(f"{flags}: these exclude one another; give one of them")
                if asked.resolve and not asked.cfg:
                    raise UserError("--resolve: it is about what --cfg shows; add --cfg job")
                os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as its traceback
                register(root_here)
                _run_hydra(asked, get_args_parser(), lambda _: None, str(files.SETTINGS), primary)
                return 0
            name = asked.config_name or primary
            if root is Advising:
                return score(asked) if scores else advise(asked, arguments)
            if is_chain:
                return _chain(asked, arguments)
            runs, many = runs_of(asked.overrides, root_here, name, asked.config_dir, asked.multirun)
            for run in runs:
                check.check(run)
                check.check_folders(run.run)
            mode, jobs = runs[0].run.mode, runs[0].jobs
            if many and mode.trains and jobs.clone:
                clone.go_on(jobs.clone, Cache(runs[0].run.cache, print), arguments)
            first, *others = [list(check.warnings(run)) for run in runs]
            # what one run of a multirun has no use for another may have
            in_all = [line for line in first if all(line in lines for lines in others)]
            warned = [*check.repeated(asked.overrides), *in_all]
            if not many and jobs != Basic():
                warned.append("jobs has no effect on a single run")
            for line in dict.fromkeys(line for run in runs for line in run.found):
                print(line, file=sys.stderr)
            for warning in warned:
                print(f"warning: {warning}", file=sys.stderr)
            if many and root is Run and (mode.trains or mode is Mode.plan):
                # a plan begins no process
                with starter(jobs.start if mode.trains else Start.fresh) as begin:
                    with loading():
                        from dwt_cli.launch import sweep
                    return sweep.carry_out(runs, asked.config_name, arguments, Console(), begin)
            codes = [_reported(program, partial(start, run)) for run in runs]
            return next(filter(None, codes), 0)

    try:
        return _reported(program, work)
    except KeyboardInterrupt as stop:
        return interrupt.report(stop, program, arguments)


def _chain(asked: Namespace, arguments: list[str]) -> int:
    """Hand a chain over. Its own settings are composed here, those of its stages one by one."""
    if asked.multirun:
        raise UserError("-m: a chain is one run after the other; leave it out")
    for word in asked.overrides:
        if OverridesParser.create().parse_override(word).is_sweep_override():
            raise UserError(f"{word}: a chain has one value of each setting; choose one of them")
    name = asked.config_name.removesuffix(".yaml")
    for key in files.foreign(name, asked.config_dir):
        raise UserError(
            f"{name}.yaml sets {key}: a chain's file has `chain` alone; use chain.words"
        )
    own = [word for word in asked.overrides if re.split("[.=]", word.lstrip("+~"))[0] in OF_ALL]
    (chain,), _ = runs_of(own, Chained, name, asked.config_dir)
    assert isinstance(chain, Chained)
    trains = chain.run.mode.trains
    if trains and chain.jobs.clone:
        clone.go_on(chain.jobs.clone, Cache(chain.run.cache, print), arguments)
    beside = None if asked.config_dir == str(files.SWEEPS) else asked.config_dir
    # a plan begins no process
    with starter(chain.jobs.start if trains else Start.fresh) as begin:
        with loading():
            from dwt_cli.launch.chain import carry_out
        return carry_out(chain, asked.overrides, (name, beside), arguments, Console(), begin)


def _reported(program: str, work: Callable[[], int | None]) -> int:
    """Return the exit code of some work; a mistake is one line on stderr."""
    try:
        return work() or 0
    except Reported as error:
        return error.code
    except Exception as error:
        line = explain.answer(error)
        if line is None:
            raise
        line = line.replace("dwt-train", program)  # the checks are shared
        print(f"{program}: {line}", file=sys.stderr, flush=True)
        return MISTAKE
