"""Which layer comes from which, against the lists that papers give."""

import pytest

from dwt_cli.distill.remap.depth import RULES


def chosen(rule: str, num_student: int, num_teacher: int) -> list[int | None]:
    layers = range(num_student)
    return [RULES[rule](layer, num_student, num_teacher) for layer in layers]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("paper", [0, 1, 2, 3, 3, 3]),  # section 3.3
        ("stack", [0, 1, 2, 3, 0, 1]),
        ("interpolate", [0, 0, 1, 2, 2, 3]),
        ("zero_init", [0, 0, 1, 2, 2, 3]),
        ("fresh", [None] * 6),
    ],
)
def test_six_layers_of_four(rule: str, expected: list[int | None]) -> None:
    assert chosen(rule, 6, 4) == expected


@pytest.mark.parametrize("rule", ["paper", "stack", "interpolate", "zero_init"])
def test_at_its_own_depth_every_layer_stays_where_it_is(rule: str) -> None:
    assert chosen(rule, 4, 4) == [0, 1, 2, 3]
    assert chosen(rule, 6, 1) == [0] * 6


def test_of_a_deeper_teacher_some_layers_are_taken() -> None:
    assert chosen("paper", 2, 4) == chosen("stack", 2, 4) == [0, 1]
    assert chosen("interpolate", 2, 4) == [0, 2]
