"""``dwt-train`` and ``dwt-eval``. A question is answered before anything large is loaded."""

import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from dwt_cli.cli import help


def main() -> None:
    """``dwt-train``. A user's mistake is one line on stderr and exit code 2."""
    _run("dwt-train", help.train)


def evaluate_main() -> None:
    """``dwt-eval``, in the same manner."""
    _run("dwt-eval", help.evaluate)


def _run(program: str, guide: Callable[[], str]) -> None:
    """Print what only help or the version is asked for; else carry the command out, and exit."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        text = guide()
    elif "--version" in arguments or arguments == ["version"]:
        text = f"{program} {version('dwt-cli')}"
    else:
        from dwt_cli.cli.command import carry_out

        sys.exit(carry_out(program, arguments))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # head, or a pager that was left, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
