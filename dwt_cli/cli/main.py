"""``dwt-train`` and others. A question is answered before anything large is loaded."""

import os
import sys
from importlib.metadata import version

from dwt_cli.cli import help


def main(program: str = "dwt-train") -> None:
    """Carry a command out, and exit; its help and version need nothing large.

    A user's mistake is one line on stderr and exit code 2.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments) or arguments == ["help"]:
        text = help.text(program)
    elif "--version" in arguments or arguments == ["version"]:
        text = f"{program} {version('dwt-cli')}"
    else:
        from dwt_cli.cli.command import carry_out

        sys.exit(carry_out(program, arguments))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # head, or a pager that was left, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def evaluate_main() -> None:
    """Carry ``dwt-eval`` out, in the same manner."""
    main("dwt-eval")


def advise_main() -> None:
    """Carry ``dwt-advise`` out; with ``--score`` what it has forecast is compared."""
    main("dwt-advise")
