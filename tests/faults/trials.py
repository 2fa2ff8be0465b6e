"""What was tried, by name and number, and what was wrong with it: written down as it comes."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from dwt_cli.base.machine import commit


@dataclass(frozen=True)
class Trial:
    """Something that was done to a command or a file.

    said: in answer to it, in a line. wrong: nothing, if it ended as it should. commit: at which it
    was done.
    """

    name: str
    number: int
    seconds: float
    said: str
    wrong: list[str]
    commit: str = ""

    @property
    def line(self) -> str:
        """The trial in a line."""
        return f"{self.name}, {self.number}: {self.said}: {self.wrong or 'as it should be'}"


T = TypeVar("T", bound=Trial)


def kept(
    record: Path,
    wanted: Sequence[tuple[str, int]],
    ask: Callable[[str, int], T],
    kind: type[T],
) -> Iterator[T]:
    """Yield a trial of each name and number: those on record and right, the others anew."""
    lines = [kind(**json.loads(line)) for line in record.open()] if record.exists() else []
    right = {(each.name, each.number): each for each in lines if not each.wrong}
    for name, number in wanted:
        if (name, number) not in right:
            right[name, number] = replace(ask(name, number), commit=commit())
            with record.open("a") as file:
                print(json.dumps(asdict(right[name, number])), file=file)
        yield right[name, number]


def table(trials: Sequence[Trial]) -> str:
    """Return how many there were of each name, as Markdown."""
    lines = ["| what | trials | numbers (seeds) | wrong |", "|---|---|---|---|"]
    for name in dict.fromkeys(each.name for each in trials):
        of = [each for each in trials if each.name == name]
        numbers = sorted(each.number for each in of)
        ends = f"{numbers[0]}" if len(of) == 1 else f"{numbers[0]} to {numbers[-1]}"
        lines.append(f"| {name} | {len(of)} | {ends} | {sum(bool(each.wrong) for each in of)} |")
    wrong = sum(bool(each.wrong) for each in trials)
    return "\n".join([*lines, f"| all | {len(trials)} | | {wrong} |"])
