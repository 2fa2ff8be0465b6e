"""Which of the teacher's layers each of the student's layers starts from.

A rule maps (student layer, number of student layers, number of teacher layers), all counted from
zero, to the teacher's layer; None: the student's layer keeps its random initialisation. Growth is
from few layers to many; where the teacher has more layers than the student, a rule takes some.
"""

from collections.abc import Callable

Rule = Callable[[int, int, int], int | None]


def paper(layer: int, num_student: int, num_teacher: int) -> int:
    """Take the teacher's layers in order, then its last one again: FNA's rule.

    Section 3.3 of arXiv 2305.18239: a student of 6 layers takes 0, 1, 2, 3, 3, 3 of 4.
    """
    return min(layer, num_teacher - 1)


def stack(layer: int, num_student: int, num_teacher: int) -> int:
    """Take the whole teacher, and then from its first layer again: 0, 1, 2, 3, 0, 1 of 4.

    StackBERT; the best of eight operators at scale in G_stack (arXiv 2405.15319).
    """
    return layer % num_teacher


def interpolate(layer: int, num_student: int, num_teacher: int) -> int:
    """Take each of the teacher's layers as often as its neighbours: 0, 0, 1, 2, 2, 3 of 4."""
    return layer * num_teacher // num_student


def fresh(layer: int, num_student: int, num_teacher: int) -> None:
    """Take no layer of the teacher."""


RULES: dict[str, Rule] = {
    "paper": paper,
    "stack": stack,
    "interpolate": interpolate,
    "zero_init": interpolate,
    "fresh": fresh,
}
SILENT = ("zero_init",)
"""Rules whose repetitions of a layer add zero to the residual stream: the identity at first.

Then the student computes what its teacher does. Exact where a layer adds to a residual stream that
nothing else touches (pre-LN), as in LEMON (arXiv 2310.07999): after post-LN an addition of zero is
still normalised.
"""
