"""Tables of the terminal, for the commands that list."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as wide as the terminal; in a pipe or file every row is one line.

    ``>`` before a heading aligns the column to the right.
    """
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    (Console() if sys.stdout.isatty() else Console(width=1000)).print(table)
