"""What a person did wrong, as opposed to what the program did."""

import difflib
from collections.abc import Sequence


class Told(Exception):
    """Another process has said what went wrong; ``code`` is what to leave with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a rank has left with {code}")
        self.code = code


class UserError(ValueError):
    """A mistake in a setting or a file: one line with the setting, the value and the remedy.

    The front door prints it without a traceback and leaves with a non-zero exit code.
    """


def not_among(said: str, kind: str, word: str, words: Sequence[str], prefix: str = "") -> str:
    """The line for a word that is none of those there are; said: how a person wrote it."""
    hint = nearest(word, words, prefix)
    return f"{said}: there is no such {kind}{hint} (there are: {', '.join(words)})"


def nearest(word: str, words: Sequence[str], prefix: str = "") -> str:
    """A question for the nearest of the words, or nothing."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f", did you mean {prefix}{near[0]}?" if near else ""
