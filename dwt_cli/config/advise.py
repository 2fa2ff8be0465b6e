"""The options of ``dwt-advise``: what the final run may take, and what may be spent to forecast it.

A budget is time on the devices that are used, or FLOPs; each becomes the other by a speed.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import between
from dwt_cli.config.run import GROUPS_AND_SETTINGS, Run, Study

ADVISE_SETTINGS = [*GROUPS_AND_SETTINGS, "advise"]
"""The first words of the settings of ``dwt-advise``."""

LENGTHS = (1, 2, 4)
"""How long the runs of a ladder are, in multiples of the shortest."""

FEWEST_STEPS = 32
"""Length of the shortest run of a ladder, at least: below it a student learns frequencies alone."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_HOW = "write a time, as 30m, 8h or 2d, or FLOPs, as 1e17"
_SHORT, _LONG, _SHARES = 3600.0, 8 * 3600.0, (0.25, 0.05)
_LEAST_FLOPS, _MOST = 1e6, 1e30


@dataclass
class Advise:
    """What the final run may take, and how it is looked into.

    budget: of the final run, a time (30m, 8h, 2d) or FLOPs (1e17). seeds: of each run of the
    ladder, from ``seed`` on. share: of the budget that the ladder may cost; null: a quarter of one
    of an hour or less, a twentieth of 8 hours or more, in between a power of the time. record:
    folders of studies on this text, whose law forecasts; then there is no ladder.
    """

    budget: str | None = None
    seeds: int = between(1, 100, 2)
    share: float | None = between(0.0001, 1.0, None)
    record: list[str] = field(default_factory=list)

    @property
    def is_time(self) -> bool:
        """Whether the budget is a time."""
        return str(self.budget)[-1:] in _UNITS

    @property
    def amount(self) -> float:
        """The budget in seconds, or in FLOPs."""
        text = str(self.budget)
        unit = _UNITS[text[-1]] if self.is_time else 1.0
        return float(text[:-1] if self.is_time else text) * unit

    @property
    def text(self) -> str:
        """The budget in words."""
        return str(self.budget) if self.is_time else f"{self.amount:g} FLOPs"

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the budget, one line each."""
        named = f"{setting}.budget={self.budget}"
        if self.budget is None:
            yield f"{setting}.budget has no value: {_HOW}, for the run that is to be advised"
        elif not re.fullmatch(r"\d+(\.\d+)?([eE]\+?\d+)?[smhd]?", self.budget):
            yield f"{named}: {_HOW}"
        elif not (1 if self.is_time else _LEAST_FLOPS) <= self.amount <= _MOST:
            yield f"{named}: that is no {'time' if self.is_time else 'number of FLOPs'}; {_HOW}"

    def flops(self, speed: float) -> float:
        """Return the budget in FLOPs. speed: FLOPs a second."""
        return self.amount * speed if self.is_time else self.amount

    def may_cost(self, seconds: float) -> float:
        """Return the share that the ladder may cost of a budget of so many seconds."""
        return share_of(seconds) if self.share is None else self.share

    def shortest(self, a_step: float, speed: float) -> int:
        """Return the length of the ladder's shortest runs, in steps.

        a_step: FLOPs of one step of all arms together, with one seed. Raises `UserError` where the
        budget is too small for a ladder, with the least one that is not.
        """
        rungs, whole = sum(LENGTHS) * self.seeds * a_step, self.flops(speed)
        steps = int(self.may_cost(whole / speed) * whole / rungs)
        if steps >= FEWEST_STEPS:
            return steps
        needed = FEWEST_STEPS * rungs
        grid = (10 ** (power / 100) for power in range(1300))  # seconds, and finely enough
        least = next(s for s in grid if self.may_cost(s) * s * speed >= needed)
        ends = ", ".join(str(FEWEST_STEPS * each) for each in LENGTHS)
        named = self.budget if self.is_time else f"{self.amount:g}"
        shown = in_words(least) if self.is_time else f"{least * speed:.2g}"
        raise UserError(
            f"advise.budget={named}: too small for a ladder of {ends} steps, which may cost "
            f"{self.may_cost(whole / speed):.0%} of it; set advise.budget={shown} or more, fewer "
            "advise.seeds or a larger advise.share"
        )


def share_of(seconds: float) -> float:
    """Return what a forecast may cost of a run of so many seconds, as a share of it.

    A power of the time between an hour and eight: a longer run has a longer ladder.
    """
    if seconds <= _SHORT:
        return _SHARES[0]
    place = min(1.0, math.log(seconds / _SHORT) / math.log(_LONG / _SHORT))
    return _SHARES[0] * (_SHARES[1] / _SHARES[0]) ** place


def in_words(seconds: float) -> str:
    """Return a time as a budget has it, rounded up."""
    unit = next(unit for unit in "hms" if unit == "s" or seconds >= 2 * _UNITS[unit])
    return f"{math.ceil(seconds / _UNITS[unit])}{unit}"


@dataclass
class Advising(Run):
    """The options of an advice, and those of the run that it is about."""

    advise: Advise = field(default_factory=Advise)


@dataclass
class Rung(Study):
    """One run of an advice's ladder. A command asks for it by all of its words."""

    @property
    def asked_by(self) -> list[str]:
        return self.overrides
