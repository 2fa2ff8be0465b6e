"""The forms that a law may have: what a student comes to alone, and what listening changes.

The first are those of arXiv 2001.08361, 2203.15556 and 2502.08606, with fewer numbers; the second
are ours: a taught token counts for more than one or for less, by how strongly the teacher is
listened to, and by whether the student alone would be as good as its teacher by then.

Shapes: R runs. Sizes are parameters without the table of tokens, in units of the largest; tokens
those that are read in training, in units of the longest run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = Mapping[str, float]
Range = tuple[float, float, float]  # lowest, where a fit begins, highest


@dataclass(frozen=True)
class Alone:
    """A student without a teacher.

    loss: of its numbers, sizes and tokens. tokens: of numbers, sizes and losses; infinity for a
    loss that it never has. The number E is a share of the lowest loss on record, in both.
    """

    formula: str
    ranges: Mapping[str, Range]
    loss: Callable[[Numbers, Array, Array], Array]
    tokens: Callable[[Numbers, Array, Array], Array]


@dataclass(frozen=True)
class Listening:
    """A teacher's effect: the tokens that the student alone would need.

    tokens: of its numbers, the tokens that are taught, those that are not, those after which the
    student alone would be as good as its teacher, and the soft loss's share of the weights.
    """

    formula: str
    ranges: Mapping[str, Range]
    tokens: Callable[[Numbers, Array, Array, Array, Array], Array]


def _needed(rest: Array | float, height: float, power: float, loss: Array) -> Array:
    above = np.asarray(loss - rest)
    never = np.full(above.shape, math.inf)
    return np.power(above / height, -1 / power, out=never, where=above > 0)


_REST: Mapping[str, Range] = {"E": (0.0, 0.5, 0.98)}
_SIZE: Mapping[str, Range] = {"A": (1e-4, 0.3, 50.0), "a": (0.02, 0.3, 2.0)}
_LENGTH: Mapping[str, Range] = {"B": (1e-3, 1.0, 50.0), "b": (0.02, 0.3, 2.0)}

ALONE = (
    Alone(
        "B D^-b",
        _LENGTH,
        lambda p, n, d: p["B"] * d ** -p["b"],
        lambda p, n, loss: _needed(0.0, p["B"], p["b"], loss),
    ),
    Alone(
        "E + B D^-b",
        {**_REST, **_LENGTH},
        lambda p, n, d: p["E"] + p["B"] * d ** -p["b"],
        lambda p, n, loss: _needed(p["E"], p["B"], p["b"], loss),
    ),
    Alone(
        "A N^-a + B D^-b",
        {**_SIZE, **_LENGTH},
        lambda p, n, d: p["A"] * n ** -p["a"] + p["B"] * d ** -p["b"],
        lambda p, n, loss: _needed(p["A"] * n ** -p["a"], p["B"], p["b"], loss),
    ),
    Alone(
        "E + A N^-a + B D^-b",
        {**_REST, **_SIZE, **_LENGTH},
        lambda p, n, d: p["E"] + p["A"] * n ** -p["a"] + p["B"] * d ** -p["b"],
        lambda p, n, loss: _needed(p["E"] + p["A"] * n ** -p["a"], p["B"], p["b"], loss),
    ),
    Alone(
        "E + (A N^-a + B D^-b)^g",
        {**_REST, **_SIZE, **_LENGTH, "g": (0.2, 1.0, 3.0)},
        lambda p, n, d: p["E"] + (p["A"] * n ** -p["a"] + p["B"] * d ** -p["b"]) ** p["g"],
        lambda p, n, loss: _needed(
            p["A"] * n ** -p["a"], p["B"], p["b"], np.maximum(loss - p["E"], 0.0) ** (1 / p["g"])
        ),
    ),
)

LISTENING = (
    Listening("a taught token counts as any other", {}, lambda p, f, d, level, w: f + d),
    Listening(
        "a taught token counts k^w times",
        {"k": (0.05, 2.0, 60.0)},
        lambda p, f, d, level, w: d + p["k"] ** w * f,
    ),
    Listening(
        "a taught token counts k^w times up to the teacher's level, then once",
        {"k": (0.05, 2.0, 60.0)},
        lambda p, f, d, level, w: d + _by_level(p["k"] ** w, np.ones_like(w), f, level),
    ),
    Listening(
        "a taught token counts k^w times up to the teacher's level, then j^w times",
        {"k": (0.05, 2.0, 60.0), "j": (0.01, 0.5, 60.0)},
        lambda p, f, d, level, w: d + _by_level(p["k"] ** w, p["j"] ** w, f, level),
    ),
)

HEAD_START: Range = (0.0, 0.5, 5.0)
"""The range of q: a student that begins with the weights of a teacher of r times its parameters
(tables included, at most 1) begins r^q times as far as a student alone is when it is as good as
that teacher. Ours."""


def _by_level(before: Array, after: Array, taught: Array, level: Array) -> Array:
    """Return what taught tokens count for, where the teacher's level is one of a student alone."""
    first = np.minimum(taught, level / before)
    return before * first + after * (taught - first)
