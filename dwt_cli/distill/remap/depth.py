"""Which of the teacher's layers each of the student's layers starts from.

A rule maps (student layer, number of student layers, number of teacher layers), all counted from
zero, to a `Source`. Growth is from few layers to many; where the teacher has more layers than the
student, a rule takes some of them.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a student's layer comes from.

    layer: the teacher's layer; None: the student's layer keeps its random initialisation.
    silent: what it adds to the residual stream is zero, so that it is the identity at first.
    """

    layer: int | None
    silent: bool = False


Rule = Callable[[int, int, int], Source]


def paper(layer: int, num_student: int, num_teacher: int) -> Source:
    """Take the teacher's layers in order, then its last one again: FNA's rule.

    Section 3.3 of arXiv 2305.18239: a student of 6 layers takes 0, 1, 2, 3, 3, 3 of 4.
    """
    return Source(min(layer, num_teacher - 1))


def stack(layer: int, num_student: int, num_teacher: int) -> Source:
    """Take the whole teacher, and then from its first layer again: 0, 1, 2, 3, 0, 1 of 4.

    StackBERT; the best of eight operators at scale in G_stack (arXiv 2405.15319).
    """
    return Source(layer % num_teacher)


def interpolate(layer: int, num_student: int, num_teacher: int) -> Source:
    """Take each of the teacher's layers as often as its neighbours: 0, 0, 1, 2, 2, 3 of 4."""
    return Source(layer * num_teacher // num_student)


def zero_init(layer: int, num_student: int, num_teacher: int) -> Source:
    """Take `interpolate` with silent repetitions: the student computes what its teacher does.

    Exact where a layer adds to a residual stream that nothing else touches (pre-LN), as in LEMON
    (arXiv 2310.07999): after post-LN an addition of zero is still normalised.
    """
    chosen = interpolate(layer, num_student, num_teacher)
    repeats = layer > 0 and interpolate(layer - 1, num_student, num_teacher) == chosen
    return Source(chosen.layer, silent=repeats)


def fresh(layer: int, num_student: int, num_teacher: int) -> Source:
    """Take no layer of the teacher."""
    return Source(None)


RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (paper, stack, interpolate, zero_init, fresh)
}
