"""Which layer comes from which, against the lists that papers give."""

import pytest

from dwt_cli.distill.remap.depth import RULES


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
    assert RULES[rule](6, 4) == expected


@pytest.mark.parametrize("rule", ["paper", "stack", "interpolate", "zero_init"])
def test_at_its_own_depth_every_layer_stays_where_it_is(rule: str) -> None:
    assert RULES[rule](4, 4) == [0, 1, 2, 3]
    assert RULES[rule](6, 1) == [0] * 6


def test_of_a_deeper_teacher_some_layers_are_taken() -> None:
    assert RULES["paper"](2, 4) == RULES["stack"](2, 4) == [0, 1]
    assert RULES["interpolate"](2, 4) == [0, 2]
