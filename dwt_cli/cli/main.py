"""The front doors: compose, check, hand over to launch. Imports no torch."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from tempfile import TemporaryDirectory

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dwt_cli.base import interrupt
from dwt_cli.base.errors import Told, UserError
from dwt_cli.cli import help, overrides
from dwt_cli.config import arms, check, explain, places
from dwt_cli.config.compose import register, typed
from dwt_cli.config.files import groups, settings_folder
from dwt_cli.config.launch import Jobs
from dwt_cli.config.run import EVAL_SETTINGS, GROUPS_AND_SETTINGS, Evaluation, Run, Study
from dwt_cli.launch.dispatch import carry_out, launch

_MISTAKE = 2

_failed_jobs: list[int] = []  # exit codes: Hydra gives a job no way to fail without a traceback
_runs: list[Run] = []  # of a multirun: all are composed and checked before one begins
_warned: set[str] = set()


@dataclass(frozen=True)
class Door:
    """A command: its name, the primary config that it composes and what that is, and its help.

    settings: the first words of what can be set; the config has more, which is idle.
    """

    program: str
    primary: str
    root: type[Run]
    head: str
    tail: str
    settings: Sequence[str]

    def job(self, composed: DictConfig) -> None:
        trains = self.root is not Evaluation
        if trains and _failed_jobs:
            return  # of a multirun with a mistake nothing is begun
        try:
            run = _checked(composed)
            several = HydraConfig.get().mode is RunMode.MULTIRUN
            if several and trains and not run.run.only_looks:
                _runs.append(run)
            else:
                if not several and run.jobs != Jobs():
                    print("warning: jobs has no effect on a single run", file=sys.stderr)
                launch(run)
        except Told as told:
            _failed_jobs.append(told.code)
        except Exception as error:
            self.say_failed(error)

    def say_failed(self, error: Exception) -> None:
        line = explain.answer(error)
        if line is None:
            raise error
        said = line.replace(TRAIN.program, self.program)  # the checks are shared
        print(f"{self.program}: {said}", file=sys.stderr, flush=True)
        _failed_jobs.append(_MISTAKE)


TRAIN = Door(
    "dwt-train",
    "config",
    Run,
    help.TRAIN_HEAD,
    help.TRAIN_TAIL,
    GROUPS_AND_SETTINGS,
)
EVAL = Door(
    "dwt-eval",
    "evaluate",
    Evaluation,
    help.EVAL_HEAD,
    help.EVAL_TAIL,
    EVAL_SETTINGS,
)


def _checked(composed: DictConfig) -> Run:
    job = HydraConfig.get()
    words = list(job.overrides.task)
    if line := explain.surplus(words):
        raise UserError(line)
    choices = dict(job.runtime.choices)
    if "study" in composed:
        of_arm = arms.words_of(composed, words)
        run = typed(compose(job.job.config_name, [*words, *of_arm]))
        assert isinstance(run, Study)
        run.study.arms = arms.as_written(composed)
        words += of_arm
        choices |= dict(word.split("=", 1) for word in of_arm)
    else:
        run = typed(composed)
    run.choices = {group: choices[group] for group in groups() if choices.get(group)}
    run.choices["objective"] = "+".join(run.objective)  # Hydra names none if there are several
    run.overrides = words
    _check(run)
    for warning in check.warnings(run):
        if warning not in _warned:
            _warned.add(warning)
            print(f"warning: {warning}", file=sys.stderr)
    return run


def _check(run: Run) -> None:
    check.check(run)
    places.check(run.run)


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    _enter(TRAIN)


def evaluate_main() -> None:
    """``dwt-eval``, in the same manner."""
    _enter(EVAL)


def _show(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # head, or a pager that was left, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _enter(door: Door) -> None:
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        _show(help.guide(door.head, door.tail, door.primary, door.settings))
        return
    if "--version" in arguments or arguments == ["version"]:
        print(f"{door.program} {version('dwt-cli')}")
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as Hydra's traceback
    for left in (_failed_jobs, _runs, _warned):
        left.clear()
    try:
        typed = overrides.read(arguments, door.primary, door.settings)
        register(Study if typed.is_study else door.root)
        job = hydra.main(str(settings_folder()), door.primary, version_base="1.3")(door.job)
        with interrupt.stoppable():
            with TemporaryDirectory(prefix="dwt-") as folder:  # Hydra's own record of a multirun
                sys.argv[1:] = [f"hydra.sweep.dir={folder}", *typed.arguments]
                job()
            if _runs and not _failed_jobs:
                _failed_jobs.append(carry_out(_runs, typed.options.config_name, arguments))
    except KeyboardInterrupt as stop:
        sys.exit(interrupt.leave(stop, door.program, arguments))
    except Exception as error:
        door.say_failed(error)
    sys.exit(_failed_jobs[0] if _failed_jobs else 0)
