"""Which of the teacher's layers each of the student's layers starts from.

A rule maps (student layer, number of student layers, number of teacher layers), all counted from
zero, to a teacher layer, or to None: the layer keeps its random initialisation.
"""

from collections.abc import Callable

Rule = Callable[[int, int, int], int | None]


def paper(layer: int, num_student: int, num_teacher: int) -> int | None:
    """FNA's depth rule: the teacher's layers in order, then its last one again.

    Section 3.3 of arXiv 2305.18239: a student of 6 layers takes 0, 1, 2, 3, 3, 3 of 4.
    """
    return min(layer, num_teacher - 1)


RULES: dict[str, Rule] = {"paper": paper}
"""The rules by name. ``random`` is no rule: the student is then left as it was made."""
