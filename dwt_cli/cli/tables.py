"""Tables of the terminal, for the commands that list."""

import shutil
from collections.abc import Sequence

_GAP = "  "


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows, each one line as wide as the terminal; whole in a pipe or file.

    ``>`` before a heading aligns the column to the right, ``~`` lets its words be cut where there
    is no room; numbers never are.
    """
    table = [[heading.lstrip(">~") for heading in headings], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    words = [place for place, heading in enumerate(headings) if heading.startswith("~")]
    too_wide = sum(widths) + len(_GAP) * (len(widths) - 1) - terminal_width()
    while too_wide > 0 and widths[widest := max(words, key=widths.__getitem__)] > 1:
        widths[widest] -= 1
        too_wide -= 1
    align = [str.rjust if heading.startswith(">") else str.ljust for heading in headings]
    for row in table:
        cells = zip(align, map(_cut, row, widths), widths, strict=True)
        print(_GAP.join(aligned(cell, width) for aligned, cell, width in cells).rstrip())


def terminal_width() -> int:
    """Return the columns of the terminal, or as ``COLUMNS`` says; many in a pipe or file."""
    return shutil.get_terminal_size((10_000, 0)).columns


def _cut(cell: str, width: int) -> str:
    """Return a cell with its middle left out: runs differ at the end of their names."""
    if len(cell) <= width:
        return cell
    tail = width // 2
    return f"{cell[: width - tail - 1]}…{cell[len(cell) - tail :]}"
