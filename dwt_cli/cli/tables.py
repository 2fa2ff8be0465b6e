"""Tables of the terminal, for the commands that list."""

import sys

from rich.console import Console
from rich.table import Table


def table(*headings: str) -> Table:
    """Return an empty table; ``>`` before a heading aligns the column to the right."""
    made = Table(box=None, pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return made


def console() -> Console:
    """Return a console as wide as the terminal; in a pipe or file every row is one line."""
    return Console() if sys.stdout.isatty() else Console(width=1000)
