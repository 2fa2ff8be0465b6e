"""The front door: compose, check, hand over to launch. Imports no torch."""

import os
import sys
from importlib.metadata import version

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dwt_cli import command, config, guide, mistakes, places
from dwt_cli.errors import Told, UserError
from dwt_cli.launch import launch
from dwt_cli.settings import settings_folder
from dwt_cli.training import interrupt

_MISTAKE = 2

_failed_jobs: list[int] = []  # exit codes: Hydra gives a job no way to fail without a traceback


@hydra.main(config_path=str(settings_folder()), config_name="config", version_base="1.3")
def _job(composed: DictConfig) -> None:
    try:
        launch(_checked(composed))
    except Told as told:
        _failed_jobs.append(told.code)
    except Exception as error:
        _say_failed(error)


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
    for warning in config.warnings(run):
        print(f"warning: {warning}", file=sys.stderr)
    return run


def _check(run: config.Run) -> None:
    config.check(run)
    places.check(run.run)


def _say_failed(error: Exception) -> None:
    line = mistakes.answer(error)
    if line is None:
        raise error
    print(f"dwt-train: {line}", file=sys.stderr, flush=True)
    _failed_jobs.append(_MISTAKE)


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        print(guide.guide())
        return
    if "--version" in arguments or arguments == ["version"]:
        print(f"dwt-train {version('dwt-cli')}")
        return
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as Hydra's traceback
    _failed_jobs.clear()
    try:
        typed = command.read(arguments)
        sys.argv[1:] = typed.arguments
        for composed in typed.arms():  # all of them before the first one begins
            _check(config.typed(composed))
        with interrupt.stoppable():
            _job()
    except KeyboardInterrupt as stop:
        sys.exit(interrupt.leave(stop, "dwt-train", arguments))
    except Exception as error:
        _say_failed(error)
    if _failed_jobs:
        sys.exit(_failed_jobs[0])


if __name__ == "__main__":
    main()
