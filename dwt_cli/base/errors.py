"""A person's mistakes, as opposed to the program's, and the exit codes of both."""

import difflib
from collections.abc import Sequence

FAULT, MISTAKE = 1, 2
"""Exit codes of a process that has reported an error: by a traceback, or in one line."""


class Reported(Exception):
    """Another process has reported what went wrong; ``code`` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a rank has ended with exit code {code}")
        self.code = code


class UserError(ValueError):
    """A mistake in a setting or a file: one line with the setting, the value and the remedy.

    A command prints it without a traceback and ends with `MISTAKE`.
    """


def first_line(error: BaseException | str) -> str:
    """Return a library's own words, as far as they fit into a line of ours; else its class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")


def not_among(written: str, kind: str, word: str, words: Sequence[str], prefix: str = "") -> str:
    """Return the line for a word that is none of those there are; written: as it was typed."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    hint = f", did you mean {prefix}{near[0]}?" if near else ""
    return f"{written}: there is no such {kind}{hint} (there are: {', '.join(words)})"
