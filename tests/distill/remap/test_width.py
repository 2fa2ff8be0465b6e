"""Each rule on one matrix, against its formula place by place in plain Python."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.remap.width import RULES, Axis, Piece, tile

ROWS, COLUMNS = Axis(3, 8), Axis(4, 6, read=True)


@pytest.fixture
def piece() -> Piece:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=draw)

    return Piece(random(3, 4), random(3, 4), random(8, 6), (ROWS, COLUMNS))


def by_hand(piece: Piece, rule: str) -> Tensor:
    expected = torch.zeros(8, 6, dtype=torch.float64)
    for row in range(8):
        for column in range(6):
            copies = sum(1 for other in range(6) if other % 4 == column % 4)
            own = piece.following if rule == "aki" and row >= 3 else piece.own
            value = own[row % 3, column % 4] / copies
            if rule == "lemon":
                alike = [piece.fresh[row, other] for other in range(6) if other % 4 == column % 4]
                value = value + piece.fresh[row, column] - sum(alike) / copies
            if rule == "decorrelated" and copies == 2:
                other = (column + 4) % 8
                apart = [(piece.fresh[k, column] - piece.fresh[k, other]) / 2 for k in range(8)]
                size = sum((piece.own[k % 3, column % 4] / 2) ** 2 for k in range(8))
                value = value + apart[row] * (size / sum(each**2 for each in apart)) ** 0.5
            if rule == "tile":  # 2 whole rows and 1 column lie before the middle
                value = piece.own[(row - 2) % 3, (column - 1) % 4]
            expected[row, column] = value
    return expected


@pytest.mark.parametrize("rule", RULES)
def test_the_formula(piece: Piece, rule: str) -> None:
    torch.testing.assert_close(RULES[rule](piece), by_hand(piece, rule), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", ["net2net", "lemon", "decorrelated"])
def test_equal_inputs_add_up_to_the_same_sum(piece: Piece, rule: str) -> None:
    x = torch.arange(1.0, 5, dtype=torch.float64)
    wider = x[torch.arange(6) % 4]
    expected = (piece.own @ x)[torch.arange(8) % 3]
    torch.testing.assert_close(RULES[rule](piece) @ wider, expected, rtol=0, atol=1e-13)


def test_lemon_s_copies_differ(piece: Piece) -> None:
    shared, unequal = RULES["net2net"](piece), RULES["lemon"](piece)
    assert torch.equal(shared[:, 0], shared[:, 4])
    assert not torch.isclose(unequal[:, 0], unequal[:, 4]).any()
    # columns 2 and 3 have no copy: nothing to break
    torch.testing.assert_close(unequal[:, 2:4], shared[:, 2:4])


def test_decorrelated_copies_are_uncorrelated(piece: Piece) -> None:
    grown = RULES["decorrelated"](replace(piece, fresh=1e-3 * piece.fresh))
    assert abs(grown[:, 0] @ grown[:, 4]) < 1e-13 < grown[:, 0].norm()


def test_of_many_copies_they_are_on_average() -> None:
    draw = torch.Generator().manual_seed(0)
    own, fresh = (torch.randn(64, n, generator=draw).double() for n in (2, 256))
    axes = Axis(64, 64), Axis(2, 256, read=True)
    grown = RULES["decorrelated"](Piece(own, own, fresh, axes))
    products = (grown[:, ::2].T @ grown[:, ::2])[*torch.triu_indices(128, 128, 1)]
    assert abs(products.mean()) < 1e-9 * products.abs().mean()


def test_the_middle_counts_whole_heads() -> None:
    heads = torch.tensor([10, 11, 20, 21])  # two heads of size 2
    five = Piece(heads, heads, torch.zeros(10), (Axis(4, 10, unit=2),))
    assert tile(five).tolist() == [20, 21, 10, 11, 20, 21, 10, 11, 20, 21]


@pytest.mark.parametrize("rule", RULES)
def test_shapes_alone_on_the_meta_device(piece: Piece, rule: str) -> None:
    def meta(tensor: Any) -> Tensor:
        return tensor.to("meta")

    outlined = Piece(meta(piece.own), meta(piece.following), meta(piece.fresh), piece.axes)
    assert RULES[rule](outlined).shape == (8, 6)
