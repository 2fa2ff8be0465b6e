"""Marks of settings, walks over trees of options, and options that several rooms share.

A field marked `bookkeeping` cannot change a run's result and is left out of its identity. One
marked `added` is younger than version 0.2, whose runs are found as long as it has its default. A
class that is renamed keeps the name that identities know as ``tag: ClassVar[str]``, which its
subclasses do not inherit. `dwt_cli.config.check` holds a number to its field's range, and then
asks ``problems(setting)`` of each class that has it. Imports no torch.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

SINCE_0_2 = "since 0.2"


def bookkeeping(default: Any, **metadata: Any) -> Any:
    """Return a field that says where, how fast or under what label; never what comes out."""
    return _field(default, {"identity": False, **metadata})


def added(default: Any, **metadata: Any) -> Any:
    """Return a field that version 0.2 did not have; at its default the result is what it was."""
    return _field(default, {"identity": SINCE_0_2, **metadata})


@dataclass(frozen=True)
class Range:
    """The values that a number, or each number of a list, may have.

    beyond, below: whether ``low``, ``high`` itself is outside. hint: what follows the range in the
    line for a value outside. infinite: whether infinity is a value.
    """

    low: float
    high: float = math.inf
    beyond: bool = False
    below: bool = False
    hint: str = ""
    infinite: bool = False

    def problem(self, setting: str, value: float | None) -> str | None:
        """Return the line for a value outside of the range; None where it fits, or is null."""
        if value is None:
            return None
        is_over = value > self.low if self.beyond else value >= self.low
        is_under = value < self.high if self.below else value <= self.high
        if is_over and is_under:
            return None
        low = f"{'above' if self.beyond else 'at least'} {self.low}"
        high = f" and {'below' if self.below else 'at most'} {self.high}"
        hint = f"; {self.hint}" if self.hint else ""
        return f"{setting}={value}: it is {low}{high if math.isfinite(self.high) else ''}{hint}"


def between(low: float, high: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number in [low, high]; more: other metadata, as ``identity=False``."""
    return _field(default, {"range": Range(low, high, hint=hint), **more})


def at_least(low: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number that is ``low`` or more."""
    return _field(default, {"range": Range(low, hint=hint), **more})


def above(
    low: float, default: Any = MISSING, hint: str = "", below: float = math.inf, **more: Any
) -> Any:
    """Return a field of a number above ``low``, and below ``below``."""
    return _field(default, {"range": Range(low, below, True, True, hint), **more})


def _field(default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def walk(
    value: Any, setting: str = "", bounds: Range | None = None
) -> Iterator[tuple[str, Any, Range | None]]:
    """Yield the setting, the content and the range of every class and value in a tree of options.

    The root is the first. What is in a list has the list's setting; with
    ``metadata={"names": FIELD}`` each has its own name, from the list in that field.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from walk(each, dotted(setting, name), bounds)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from walk(each, setting, bounds)
    else:
        yield setting, value, bounds
    for f in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        inside, names = getattr(value, f.name), f.metadata.get("names")
        if names:
            inside = dict(zip(getattr(value, names), inside, strict=False))
        yield from walk(inside, dotted(setting, names or f.name), f.metadata.get("range"))


def dotted(*names: str) -> str:
    """Return the names with dots between them, without the empty ones."""
    return ".".join(name for name in names if name)


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
