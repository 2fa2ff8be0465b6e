"""Which of the teacher's layers each of the student's layers starts from.

A rule maps the numbers of the student's and the teacher's layers to a teacher's layer, counted from
zero, for each of the student's; None: it keeps its random initialisation. Growth is from few layers
to many; where the teacher has more layers than the student, a rule takes some.
"""

from collections.abc import Callable, Sequence

Rule = Callable[[int, int], Sequence[int | None]]


def paper(num_student: int, num_teacher: int) -> list[int]:
    """Take the teacher's layers in order, then its last one again: FNA's rule.

    Section 3.3 of arXiv 2305.18239: a student of 6 layers takes 0, 1, 2, 3, 3, 3 of 4.
    """
    return [min(layer, num_teacher - 1) for layer in range(num_student)]


def stack(num_student: int, num_teacher: int) -> list[int]:
    """Take the whole teacher, and then from its first layer again: 0, 1, 2, 3, 0, 1 of 4.

    StackBERT; the best of eight operators at scale in G_stack (arXiv 2405.15319).
    """
    return [layer % num_teacher for layer in range(num_student)]


def interpolate(num_student: int, num_teacher: int) -> list[int]:
    """Take each of the teacher's layers as often as its neighbours: 0, 0, 1, 2, 2, 3 of 4."""
    return [layer * num_teacher // num_student for layer in range(num_student)]


def fresh(num_student: int, num_teacher: int) -> list[None]:
    """Take no layer of the teacher."""
    return [None] * num_student


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
