"""The home folder, which is named after its user: kept out of what others may read."""

import re
import shlex
from pathlib import Path
from typing import Any

INSTEAD = "${oc.env:HOME}"
"""What stands for it on record: Hydra reads it as the home folder of whoever types it."""


def without_home(value: Any) -> Any:
    """Return JSON values with `INSTEAD` for the home folder wherever its path is in a string."""
    if isinstance(value, str):
        home = str(Path.home())
        if len(Path(home).parts) < 2:  # / is nobody's name
            return value
        return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", lambda _: INSTEAD, value)
    if isinstance(value, dict):
        return {key: without_home(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(each) for each in value]
    return value


def with_home(text: str) -> str:
    """Return a path or a word of a record as it is on this machine."""
    return text.replace(INSTEAD, str(Path.home()))


def for_a_shell(path: Path) -> str:
    """Return a path as a word of a shell, from ``~`` on where it is below the home folder."""
    if path.is_relative_to(Path.home()):
        return f"~/{shlex.quote(str(path.relative_to(Path.home())))}"
    return shlex.quote(str(path))
