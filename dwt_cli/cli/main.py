"""``dwt-train`` and ``dwt-eval``. A question is answered before anything large is loaded."""

import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from dwt_cli.cli import help


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    if not _answered("dwt-train", help.train):
        from dwt_cli.cli import command

        sys.exit(command.train(sys.argv[1:]))


def evaluate_main() -> None:
    """``dwt-eval``, in the same manner."""
    if not _answered("dwt-eval", help.evaluate):
        from dwt_cli.cli import command

        sys.exit(command.evaluate(sys.argv[1:]))


def _answered(program: str, guide: Callable[[], str]) -> bool:
    """Print what only help or the version is asked for; returns whether it was."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        text = guide()
    elif "--version" in arguments or arguments == ["version"]:
        text = f"{program} {version('dwt-cli')}"
    else:
        return False
    try:
        print(text, flush=True)
    except BrokenPipeError:  # head, or a pager that was left, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
