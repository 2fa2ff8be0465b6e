"""Which layer comes from which, against the lists that papers give."""

import pytest

from dwt_cli.distill.remap.depth import RULES, Source


def chosen(rule: str, num_student: int, num_teacher: int) -> list[int | None]:
    layers = range(num_student)
    return [RULES[rule](layer, num_student, num_teacher).layer for layer in layers]


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
    assert [RULES[rule](layer, 4, 4) for layer in range(4)] == [Source(n) for n in range(4)]
    assert chosen(rule, 6, 1) == [0] * 6


def test_of_a_deeper_teacher_some_layers_are_taken() -> None:
    assert chosen("paper", 2, 4) == chosen("stack", 2, 4) == [0, 1]
    assert chosen("interpolate", 2, 4) == [0, 2]


def test_repetitions_are_silent() -> None:
    silent = [RULES["zero_init"](layer, 6, 4).silent for layer in range(6)]
    assert silent == [False, True, False, False, True, False]
    assert not any(RULES["interpolate"](layer, 6, 4).silent for layer in range(6))
