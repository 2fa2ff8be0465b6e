"""Rows as some entries each against the same rows as a table over the vocabulary."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective import fused
from dwt_cli.distill.objective.base import Divergence, EntryRows
from dwt_cli.distill.objective.divergences import ForwardKL, TopK
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.objective.select import (
    AllRows,
    Confident,
    Correct,
    Gate,
    Select,
    Uncertain,
)
from dwt_cli.distill.teacher.targets import DenseLogits, SoftTargets, SparseRows
from dwt_cli.models.wrapper import OutputLayer

N, V, D, K = 9, 29, 6, 5


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(tau: float) -> tuple[SoftTargets, SoftTargets, Tensor]:
    """The same targets at a temperature, as entries and as a table, and labels."""
    weights_NK = (2 * draw(N, K)).softmax(-1).sort(descending=True).values
    weights_NK[3, 2:] = 0  # a row with fewer entries
    weights_NK /= weights_NK.sum(-1, keepdim=True)
    ids_NK = draw(N, V).argsort(-1)[:, :K]
    table_NV = torch.full((N, V), 1e-30).scatter_(1, ids_NK, weights_NK.clamp_min(1e-30))
    logits_NV = tau * table_NV.log()
    labels_N = torch.where(torch.arange(N) % 3 > 0, ids_NK[:, 0], torch.arange(N))
    plain_NV = logits_NV.log_softmax(-1)
    labels_N1, tops_N1 = plain_NV.gather(1, labels_N[:, None]), plain_NV.amax(-1, keepdim=True)
    entropies_N1 = -weights_NK.xlogy(weights_NK).sum(-1, keepdim=True)
    known = (entropies_N1, labels_N1, tops_N1, labels_N1 == tops_N1)
    entries = SparseRows(EntryRows(ids_NK, weights_NK, *known), V)
    return entries, DenseLogits(logits_NV), labels_N


def shared_pair(tau: float) -> tuple[SoftTargets, SoftTargets, Tensor]:
    """The same targets as shares of centroids that entries correct, and as a table.

    Every token that has a part in a row is an entry of it: entries sum to what the share leaves.
    """
    _, table, labels_N = pair(tau)
    logits_NV = table.dense()
    t_NV, plain_NV = (logits_NV / tau).softmax(-1), logits_NV.log_softmax(-1)
    centroids_MV = draw(3, V).softmax(-1)
    centroids_N1 = (torch.arange(N) % 3)[:, None]
    shares_N1 = draw(N, 1).sigmoid()
    weights_NV = t_NV - shares_N1 * centroids_MV[centroids_N1[:, 0]]
    labels_N1, tops_N1 = plain_NV.gather(1, labels_N[:, None]), plain_NV.amax(-1, keepdim=True)
    entropies_N1 = -t_NV.xlogy(t_NV).sum(-1, keepdim=True)
    known = (entropies_N1, labels_N1, tops_N1, labels_N1 == tops_N1, centroids_N1, shares_N1)
    rows = EntryRows(torch.arange(V).expand(N, V), weights_NV, *known)
    return SparseRows(rows, V, centroids_MV), table, labels_N


def agree(
    tau: float,
    objectives: dict[str, Divergence],
    select: Select,
    dtype: torch.dtype = torch.float32,
    cap: float | None = None,
    made: Callable[[float], tuple[SoftTargets, SoftTargets, Tensor]] = pair,
    biases: bool = False,
    **more: bool,
) -> None:
    entries, table, labels_N = made(tau)
    seen = []
    for targets in (entries, table):
        states_ND, weight_VD, bias_V = (
            draw(*of).to(dtype).requires_grad_() for of in ((N, D), (V, D), (V,))
        )
        head = OutputLayer(weight_VD, bias_V if biases else None, cap)
        of = (labels_N, Weights(0.7, 3.0), Comparison(objectives, select=select))
        sums = DistillationSums(targets, *of, **more)(states_ND, head)
        sums.total.backward()
        gradients = [states_ND.grad, weight_VD.grad, *([bias_V.grad] if biases else [])]
        seen.append((*sums[:2], *sums.soft.values(), *sums[3:], *gradients))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for found, expected in zip(*seen, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 100])
@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("kind", [ForwardKL(weight=0.5), TopK(k=3), TopK(k=1), TopK(k=K)], ids=str)
def test_values_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    rows: int,
    cap: float | None,
    tau: float,
    kind: Divergence,
) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * rows)
    objective = type(kind)(**{**vars(kind), "temperature": tau, "tau_squared": tau != 1})
    agree(tau, {"it": objective}, AllRows(), dtype, cap)


@pytest.mark.parametrize(
    "select", [Gate(), Correct(), Confident(0.6), Uncertain(entropy=0.9)], ids=str
)
def test_each_selection(select: Select) -> None:
    agree(1.0, {"it": ForwardKL()}, select)
    entries, _, labels_N = pair(1.0)
    of = (labels_N, Weights(1.0, 1.0), Comparison({"it": ForwardKL()}, select=select))
    assert 0 < DistillationSums(entries, *of)(draw(N, V)).selected < N  # it does choose


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("biases", [True, False])
def test_shares_of_centroids_are_part_of_the_row(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tau: float, biases: bool
) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * 2)
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", dtype.itemsize * V * 4)
    objectives: dict[str, Divergence] = {
        "one": ForwardKL(weight=0.5, temperature=tau, tau_squared=True),
        "other": ForwardKL(temperature=tau),
    }
    agree(tau, objectives, AllRows(), dtype, made=shared_pair, biases=biases)
    agree(tau, objectives, Correct(), dtype, made=shared_pair)


def test_shares_of_centroids_where_states_are_logits() -> None:
    entries, table, labels_N = shared_pair(1.0)
    of = (labels_N, Weights(0.7, 3.0), Comparison({"it": ForwardKL()}))
    found = []
    for targets in (entries, table):
        logits_NV = draw(N, V).requires_grad_()
        DistillationSums(targets, *of)(logits_NV).total.backward()
        found.append(logits_NV.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    totals = [DistillationSums(targets, *of)(draw(N, V)).total for targets in (entries, table)]
    torch.testing.assert_close(*totals, rtol=1e-4, atol=1e-5)  # without a gradient, too


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_compiled_it_is_the_same(tau: float) -> None:
    torch._dynamo.reset()
    objectives: dict[str, Divergence] = {"it": ForwardKL(temperature=tau)}
    agree(tau, objectives, Gate(), compiled=True)
    agree(tau, {"it": TopK(temperature=tau, k=2)}, AllRows(), compiled=True)
    agree(tau, objectives, Correct(), made=shared_pair, compiled=True)
