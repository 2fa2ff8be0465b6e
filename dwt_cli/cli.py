"""The front doors: compose, check, hand over to launch. Imports no torch."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dwt_cli import command, config, guide, mistakes, places, problems
from dwt_cli.errors import Told, UserError
from dwt_cli.launch import launch
from dwt_cli.settings import settings_folder
from dwt_cli.training import interrupt

_MISTAKE = 2

_failed_jobs: list[int] = []  # exit codes: Hydra gives a job no way to fail without a traceback


@dataclass(frozen=True)
class Door:
    """A command: its name, the primary config that it composes and what that is, and its help.

    settings: the first words of what can be set; the config has more, which is idle.
    """

    program: str
    primary: str
    root: type[config.Run]
    head: str
    tail: str
    settings: Sequence[str]

    def job(self, composed: DictConfig) -> None:
        try:
            launch(_checked(composed))
        except Told as told:
            _failed_jobs.append(told.code)
        except Exception as error:
            self.say_failed(error)

    def say_failed(self, error: Exception) -> None:
        line = mistakes.answer(error)
        if line is None:
            raise error
        said = line.replace(TRAIN.program, self.program)  # the checks are shared
        print(f"{self.program}: {said}", file=sys.stderr, flush=True)
        _failed_jobs.append(_MISTAKE)


TRAIN = Door(
    "dwt-train",
    "config",
    config.Run,
    guide.TRAIN_HEAD,
    guide.TRAIN_TAIL,
    config.GROUPS_AND_SETTINGS,
)
EVAL = Door(
    "dwt-eval",
    "evaluate",
    config.Evaluation,
    guide.EVAL_HEAD,
    guide.EVAL_TAIL,
    config.EVAL_SETTINGS,
)


def _checked(composed: DictConfig) -> config.Run:
    job = HydraConfig.get()
    if line := mistakes.surplus(list(job.overrides.task)):
        raise UserError(line)
    run = config.typed(composed)
    run.choices = {
        group: choice
        for group, choice in job.runtime.choices.items()
        if choice and "/" not in group and "@" not in group
    }
    run.choices["objective"] = "+".join(run.objective)  # Hydra names none if there are several
    run.overrides = list(job.overrides.task)
    _check(run)
    for warning in problems.warnings(run):
        print(f"warning: {warning}", file=sys.stderr)
    return run


def _check(run: config.Run) -> None:
    problems.check(run)
    places.check(run.run)


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    _enter(TRAIN)


def evaluate_main() -> None:
    """``dwt-eval``, in the same manner."""
    _enter(EVAL)


def _enter(door: Door) -> None:
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        print(guide.guide(door.head, door.tail, door.primary, door.settings))
        return
    if "--version" in arguments or arguments == ["version"]:
        print(f"{door.program} {version('dwt-cli')}")
        return
    config.register(door.root)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as Hydra's traceback
    _failed_jobs.clear()
    try:
        typed = command.read(arguments, door.primary, door.settings)
        sys.argv[1:] = typed.arguments
        for run in typed.arms():  # all of them before the first one begins
            _check(run)
        job = hydra.main(str(settings_folder()), door.primary, version_base="1.3")(door.job)
        with interrupt.stoppable():
            job()
    except KeyboardInterrupt as stop:
        sys.exit(interrupt.leave(stop, door.program, arguments))
    except Exception as error:
        door.say_failed(error)
    if _failed_jobs:
        sys.exit(_failed_jobs[0])


if __name__ == "__main__":
    main()
