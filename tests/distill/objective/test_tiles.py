"""Eq. 3 tile by tile: what it is over all logits at once, and no more rows at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective import fused
from dwt_cli.distill.objective.divergences import DIVERGENCES
from dwt_cli.distill.objective.fused import Comparison, distillation_sums, tiled_sums
from dwt_cli.distill.teacher.signal import HeadStates

N, D, V = 13, 6, 20


@pytest.mark.parametrize("rows", [1, 4, 13, 100])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_tiles_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, rows: int, with_teacher: bool
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", rows * 4 * V)
    head = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, V, bias=False))
    of_teacher = nn.Linear(D, V).requires_grad_(False)
    states_ND, labels_N = torch.randn(N, D), torch.randint(V, (N,))
    most: list[int] = []

    def counted(layer: nn.Module) -> Any:
        def call(states_CD: Tensor) -> Tensor:
            most.append(len(states_CD))
            return layer(states_CD)

        return call

    teacher = HeadStates(torch.randn(N, D), counted(of_teacher), 1.5) if with_teacher else None
    names = [*DIVERGENCES][:2] if with_teacher else []
    settings = (
        labels_N,
        Weights(0.7, 1.3),
        Comparison({name: DIVERGENCES[name](temperature=2.0) for name in names}),
    )
    found, gradients = [], []
    for in_tiles in (False, True):
        hidden_ND = states_ND.clone().requires_grad_()
        head.zero_grad()
        if in_tiles:
            most.clear()
            sums = tiled_sums(hidden_ND, counted(head), teacher, *settings)
            assert max(most) <= rows
        else:
            sums = distillation_sums(head(hidden_ND), teacher, *settings)
        (3 * sums.total).backward()
        single = [sums.total, sums.hard, sums.teacher, sums.correct, sums.selected]
        found.append(torch.stack([*(each.detach() for each in single), *sums.soft.values()]))
        gradients.append([hidden_ND.grad, *(p.grad for p in head.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-5, atol=1e-6)


def test_without_gradients_there_is_the_loss_alone() -> None:
    head, labels_N = nn.Linear(D, V), torch.arange(N)
    with torch.no_grad():
        sums = tiled_sums(
            torch.randn(N, D), head, None, labels_N, Weights(1.0, 0.0), Comparison({})
        )
    assert not sums.total.requires_grad
    assert sums.total == sums.hard


def test_a_head_may_itself_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a student whose weights are learned functions of its teacher's."""
    states_ND, labels_N = torch.randn(N, D), torch.arange(N)
    map_DD, base_DV = torch.randn(D, D, requires_grad=True), torch.randn(D, V)
    gradients = []
    for rows in (100, 4):
        monkeypatch.setitem(fused.TILE_BYTES, "cpu", rows * 4 * V)
        weight_DV = map_DD @ base_DV
        settings = (None, labels_N, Weights(1.0, 0.0), Comparison({}))
        total = tiled_sums(states_ND, lambda x, w=weight_DV: x @ w, *settings).total
        gradients += torch.autograd.grad(total, map_DD)
    torch.testing.assert_close(*gradients)
