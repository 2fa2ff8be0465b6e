"""The front door: compose, check, hand over to launch. Imports no torch."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dwt_cli import config, guide, mistakes
from dwt_cli.errors import UserError
from dwt_cli.launch import launch
from dwt_cli.settings import settings_folder

_MISTAKE, _INTERRUPTED = 2, 130

_failed_jobs: list[str] = []  # Hydra gives a job no way to fail without a traceback


@hydra.main(config_path=str(settings_folder()), config_name="config", version_base="1.3")
def _job(composed: DictConfig) -> None:
    try:
        launch(_checked(composed))
    except (*mistakes.ANSWERED, OSError, UserError) as error:
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
    run.overrides = list(job.overrides.task)
    config.check(run)
    for warning in config.warnings(run):
        print(f"warning: {warning}", file=sys.stderr)
    return run


def _say_failed(error: BaseException) -> None:
    line = mistakes.in_one_line(error)
    print(f"dwt-train: {line}", file=sys.stderr, flush=True)
    _failed_jobs.append(line)


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(guide.guide())
        return
    config.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as Hydra's traceback
    try:
        _job()
    except (*mistakes.ANSWERED, OSError, UserError) as error:
        _say_failed(error)
    except KeyboardInterrupt:
        print(
            "dwt-train: stopped; the same command goes on from the last checkpoint", file=sys.stderr
        )
        sys.exit(_INTERRUPTED)
    if _failed_jobs:
        sys.exit(_MISTAKE)


if __name__ == "__main__":
    main()
