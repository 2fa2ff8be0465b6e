"""A study's pictures."""

from dataclasses import dataclass
from pathlib import Path

from dwt_cli.study.results import Results


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, in words that stand alone."""

    path: Path
    caption: str


Pictures = dict[str, Picture]


def draw(results: Results, folder: Path) -> Pictures:
    return {}
