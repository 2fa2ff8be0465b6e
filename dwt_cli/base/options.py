"""How a setting is marked, and the options that several rooms share. Imports no torch.

A field marked `bookkeeping` cannot change a run's result and is left out of its identity; one
marked `added` is left out while it has its default. A class that is renamed keeps the name that
identities know as ``tag: ClassVar[str]``, which its subclasses do not inherit. `between`,
`at_least` and `above` give a number's range, which `dwt_cli.config.check` holds it to.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

UNLESS_DEFAULT = "unless default"


def bookkeeping(default: Any, **metadata: Any) -> Any:
    """Return a field that says where, how fast or under what label; never what comes out."""
    return field(default=default, metadata={"identity": False, **metadata})


def added(default: Any, **metadata: Any) -> Any:
    """Return a field that came later: at its default, every identity stays what it was."""
    return field(default=default, metadata={"identity": UNLESS_DEFAULT, **metadata})


@dataclass(frozen=True)
class Range:
    """The values that a number, or each number of a list, may have.

    low, high: the ends, None for an open one. beyond: whether ``low`` itself is too low.
    """

    low: float | None = None
    high: float | None = None
    beyond: bool = False

    def problem(self, setting: str, value: float | None) -> str | None:
        """Return the line for a value outside of the range; None where it fits, or is null."""
        if value is None:
            return None
        low, high = self.low, self.high
        if low is not None and (value < low or (self.beyond and value == low)):
            if high is None:
                return f"{setting}={value}: it is {'above' if self.beyond else 'at least'} {low}"
        elif high is None or value <= high:
            return None
        return f"{setting}={value}: it lies between {low} and {high}"


def between(low: float, high: float, default: Any = MISSING, **metadata: Any) -> Any:
    """Return a field of a number in [low, high]; metadata: as ``identity=False``."""
    return field(default=default, metadata={"range": Range(low, high), **metadata})


def at_least(low: float, default: Any = MISSING, **metadata: Any) -> Any:
    """Return a field of a number that is ``low`` or more."""
    return field(default=default, metadata={"range": Range(low), **metadata})


def above(low: float, default: Any = MISSING, **metadata: Any) -> Any:
    """Return a field of a number above ``low``."""
    return field(default=default, metadata={"range": Range(low, beyond=True), **metadata})


class Precision(Enum):
    """auto: bf16 where the hardware multiplies it natively, else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    """auto: the first CUDA device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
