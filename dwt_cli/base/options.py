"""Marks of settings, walks over trees of options, and options that several rooms share.

A field marked `bookkeeping` cannot change a run's result and is left out of its identity. One
marked `added` is younger than version 0.2, whose runs are found as long as it has its default. A
class that is renamed keeps the name that identities know as ``tag: ClassVar[str]``, which its
subclasses do not inherit. `between`, `within`,
`at_least` and `above` give a number's range, which `dwt_cli.config.check` holds it to, and then
asks ``problems(setting)`` of each class that has it. Imports no torch.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
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

    low, high: the ends, None for an open one. beyond, below: whether ``low``, ``high`` itself is
    outside. hint: what follows the range in the line for a value outside. infinite: whether
    infinity is a value.
    """

    low: float | None = None
    high: float | None = None
    beyond: bool = False
    below: bool = False
    hint: str = ""
    infinite: bool = False

    def problem(self, setting: str, value: float | None) -> str | None:
        """Return the line for a value outside of the range; None where it fits, or is null."""
        if value is None or self._has(value):
            return None
        return f"{setting}={value}: it {self._words()}" + (f"; {self.hint}" if self.hint else "")

    def _has(self, value: float) -> bool:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return (value > low if self.beyond else value >= low) and (
            value < high if self.below else value <= high
        )

    def _words(self) -> str:
        if self.low is not None and self.high is not None and self.beyond == self.below:
            return f"lies between {self.low} and {self.high}" + ", without them" * self.beyond
        from_low = f"{'above' if self.beyond else 'at least'} {self.low}"
        to_high = f"{'below' if self.below else 'at most'} {self.high}"
        ends = [w for w, end in ((from_low, self.low), (to_high, self.high)) if end is not None]
        return "is " + " and ".join(ends)


def between(low: float, high: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number in [low, high]; more: other metadata, as ``identity=False``."""
    return _field(default, {"range": Range(low, high, hint=hint), **more})


def within(low: float, high: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number between ``low`` and ``high``, without them."""
    return _field(default, {"range": Range(low, high, True, True, hint), **more})


def at_least(low: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number that is ``low`` or more."""
    return _field(default, {"range": Range(low, hint=hint), **more})


def above(low: float, default: Any = MISSING, hint: str = "", **more: Any) -> Any:
    """Return a field of a number above ``low``."""
    return _field(default, {"range": Range(low, beyond=True, hint=hint), **more})


def _field(default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def fold(
    options: Any, node: Callable[[Any, dict[str, Any]], Any], leaf: Callable[[Any], Any]
) -> Any:
    """Return a tree of options as dicts and lists, from its leaves to its root.

    node: makes something of a dataclass and its folded fields. leaf: of a single value.
    """
    if dataclasses.is_dataclass(options):
        names = [f.name for f in dataclasses.fields(options)]
        return node(options, {name: fold(getattr(options, name), node, leaf) for name in names})
    if isinstance(options, Mapping):
        return {str(key): fold(value, node, leaf) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [fold(value, node, leaf) for value in options]
    return leaf(options)


def nodes(options: Any, setting: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dataclass in a tree of options with its dotted setting, the root first.

    What is in a list has the list's setting; with ``metadata={"names": FIELD}`` each has its own
    name, from the list in that field.
    """
    if dataclasses.is_dataclass(options):
        yield setting, options
    for name, each in _inside(options, setting) or ():
        yield from nodes(each, name)


def leaves(value: Any, setting: str) -> Iterator[tuple[str, Any]]:
    """Yield the single values of one field, each with its setting; none of a dataclass."""
    if dataclasses.is_dataclass(value):
        return
    inside = _inside(value, setting)
    if inside is None:
        yield setting, value
    for name, each in inside or ():
        yield from leaves(each, name)


def _inside(value: Any, setting: str) -> list[tuple[str, Any]] | None:
    """Return what is directly inside of options or a container; None for a single value."""
    if isinstance(value, Mapping):
        return [(dotted(setting, name), each) for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [(setting, each) for each in value]
    if not dataclasses.is_dataclass(value):
        return None
    found = []
    for f in dataclasses.fields(value):
        inside = getattr(value, f.name)
        if names := f.metadata.get("names"):
            named = zip(getattr(value, names), inside, strict=False)
            found += [(dotted(setting, names, name), each) for name, each in named]
        else:
            found.append((dotted(setting, f.name), inside))
    return found


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
