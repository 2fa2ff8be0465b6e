"""Times taken in turn: A B C A B C ..., so that a machine's moods meet all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

SMOKE = "A smoke test: these figures mean nothing."

Timed = Callable[[], float]


def timed(work: Callable[[], object], device: torch.device) -> Timed:
    """A call of ``work`` that returns its seconds, the device's queue included."""

    def measure() -> float:
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        return time.perf_counter() - started

    return measure


def in_turn(things: Mapping[str, Timed], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """The seconds of each thing in each round; the first ``warm_up`` rounds are thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for number in range(warm_up + rounds):
        for name, measure in things.items():
            spent = measure()
            if number >= warm_up:
                seconds[name].append(spent)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float], digits: int) -> str:
    """median (min .. max)"""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
