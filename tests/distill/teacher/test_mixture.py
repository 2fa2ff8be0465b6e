"""The mixture against loops over fp64 probabilities."""

import math

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.teacher.several import Weighting
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    MixtureSignal,
    Request,
    TeacherSignal,
)
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.tasks.task import Batch

K, N, V = 3, 5, 7
WEIGHTS, TEMPERATURES = [0.7, 0.2, 3.0], [1.0, 2.0, 0.5]
LABELS_N = torch.tensor([6, 0, 3, 3, 1])


class Recorded(TeacherSignal):
    """A signal that was written down."""

    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV: Tensor | None = logits_NV

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert self.logits_NV is not None
        return Answer(DenseLogits(self.logits_NV[batch.rows_N]))

    def release(self) -> None:
        self.logits_NV = None


@pytest.fixture
def members() -> list[Recorded]:
    draw = torch.Generator().manual_seed(0)
    return [Recorded(3 * torch.randn(N, V, generator=draw)) for _ in range(K)]


def rows(start: int, end: int) -> Batch:
    numbers = torch.arange(start, end)
    return Batch(
        torch.zeros((1, N), dtype=torch.int64), numbers, LABELS_N[numbers], torch.zeros((1, 3))
    )


def dense(signal: TeacherSignal, start: int, end: int) -> Tensor:
    return signal(rows(start, end)).targets.dense()


def obvious(members: list[Recorded], weighting: Weighting) -> list[list[float]]:
    probabilities_KNV = []
    for member, temperature in zip(members, TEMPERATURES, strict=True):
        assert member.logits_NV is not None
        table = []
        for scores in member.logits_NV.double().tolist():
            exponentials = [math.exp(score / temperature) for score in scores]
            table.append([each / sum(exponentials) for each in exponentials])
        probabilities_KNV.append(table)
    losses_KN = [
        [-math.log(row[label]) for row, label in zip(table, LABELS_N.tolist(), strict=True)]
        for table in probabilities_KNV
    ]
    mixed_NV = []
    for n in range(N):
        losses = {
            Weighting.fixed: [0.0] * K,
            Weighting.batch: [sum(losses_KN[k]) / N for k in range(K)],
            Weighting.token: [losses_KN[k][n] for k in range(K)],
        }[weighting]
        raw = [WEIGHTS[k] * math.exp(-losses[k]) for k in range(K)]
        mixed_NV.append(
            [
                sum(raw[k] / sum(raw) * probabilities_KNV[k][n][v] for k in range(K))
                for v in range(V)
            ]
        )
    return mixed_NV


@pytest.mark.parametrize("weighting", [Weighting.fixed, Weighting.batch, Weighting.token])
def test_the_mixture_of_the_distributions(members: list[Recorded], weighting: Weighting) -> None:
    before = [member.logits_NV.clone() for member in members if member.logits_NV is not None]
    found_NV = dense(MixtureSignal(members, WEIGHTS, TEMPERATURES, weighting), 0, N)
    wanted_NV = torch.tensor(obvious(members, weighting))
    torch.testing.assert_close(found_NV.exp(), wanted_NV, rtol=1e-5, atol=1e-7)
    for member, logits_NV in zip(members, before, strict=True):
        assert torch.equal(member.logits_NV, logits_NV), "a member's answer stays as it was"


@pytest.mark.parametrize(
    ("weighting", "same"),
    [(Weighting.fixed, True), (Weighting.token, True), (Weighting.batch, False)],
)
def test_which_weights_a_batch_in_parts_changes(
    members: list[Recorded], weighting: Weighting, same: bool
) -> None:
    signal = MixtureSignal(members, WEIGHTS, TEMPERATURES, weighting)
    parts_NV = torch.cat([dense(signal, 0, 2), dense(signal, 2, N)])
    assert torch.allclose(parts_NV, dense(signal, 0, N), atol=1e-6) == same


def test_released_it_lets_go_of_every_member(members: list[Recorded]) -> None:
    signal = MixtureSignal(members, WEIGHTS, TEMPERATURES, Weighting.fixed)
    signal.release()
    assert [member.logits_NV for member in members] == [None] * K
    with pytest.raises(AssertionError, match="released"):
        signal(rows(0, N))
