"""Other forms of targets against dense logits: the distribution, and the student's loss."""

import math

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective import fused
from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.objective.divergences import ForwardKL, JensenShannon, TopK
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.objective.select import Gate
from dwt_cli.distill.teacher.targets import DenseLogits, HeadStates, SoftTargets, SparseRows

N, V, D, K = 7, 19, 5, 4
COMPARISONS = [
    Comparison({"it": ForwardKL(temperature=2.0)}),
    Comparison({"near": JensenShannon(), "far": TopK(k=K)}, select=Gate()),
]


def draw(*shape: int) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def sparse_pair() -> tuple[SoftTargets, SoftTargets]:
    """The K likeliest tokens, and the whole distribution with the rest spread evenly."""
    probabilities_NV = draw(N, V).softmax(-1).double()
    kept, ids_NK = probabilities_NV.topk(K)
    dense = []
    for row in range(N):
        rest = (1 - kept[row].sum().item()) / (V - K)
        entries = dict(zip(ids_NK[row].tolist(), kept[row].tolist(), strict=True))
        dense.append([math.log(entries.get(token, rest)) for token in range(V)])
    of_no_matter = torch.zeros(N, 1)
    entries = EntryRows(ids_NK, kept.float(), *[of_no_matter] * 4)
    return SparseRows(entries, V), DenseLogits(torch.tensor(dense))


def head_pair(cap: float | None) -> tuple[SoftTargets, SoftTargets]:
    """A matrix with a bias."""
    states_ND, weight_VD, bias_V = draw(N, D), draw(V, D), draw(V)
    dense = []
    for state_D in states_ND.double():
        scores = [float(state_D @ weight_VD[v].double() + bias_V[v]) for v in range(V)]
        dense.append([cap * math.tanh(s / cap) if cap else s for s in scores])

    return HeadStates(states_ND, weight_VD, bias_V, cap), DenseLogits(torch.tensor(dense))


PAIRS = {"sparse": sparse_pair(), "head": head_pair(None), "capped": head_pair(3.0)}


@pytest.mark.parametrize("kind", PAIRS)
def test_the_same_distribution(kind: str) -> None:
    found, expected = PAIRS[kind]
    torch.testing.assert_close(found.dense(), expected.dense(), rtol=1e-4, atol=1e-4)
    for rows in (slice(0, 3), slice(5, None)):
        torch.testing.assert_close(found.dense(rows), found.dense()[rows])
    if kind == "sparse":
        torch.testing.assert_close(found.dense().exp().sum(-1), torch.ones(N))


@pytest.mark.parametrize("kind", ["head", "capped"])
@pytest.mark.parametrize("comparison", COMPARISONS, ids=["one", "two"])
@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_the_same_loss_and_gradient_of_the_student(
    monkeypatch: pytest.MonkeyPatch, kind: str, comparison: Comparison, rows_per_chunk: int
) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * rows_per_chunk)
    labels_N = torch.arange(N)
    seen = []
    for targets in PAIRS[kind]:
        student_NV = draw(N, V, 1).squeeze(-1).requires_grad_()
        sums = DistillationSums(targets, labels_N, Weights(1.0, 3.0), comparison)(student_NV)
        sums.total.backward()
        assert student_NV.grad is not None
        seen.append((sums.total, sums.teacher, *sums.soft.values(), student_NV.grad))
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_row_that_keeps_all_of_its_mass_stays_finite() -> None:
    kept = (torch.tensor([[2, 0]]), torch.tensor([[0.6, 0.4 + 1e-7]]))
    dense_NV = SparseRows(EntryRows(*kept, *[torch.zeros(1, 1)] * 4), 4).dense()
    assert dense_NV.isfinite().all()
    assert dense_NV.exp().tolist() == [pytest.approx([0.4, 0, 0.6, 0], abs=1e-6)]
