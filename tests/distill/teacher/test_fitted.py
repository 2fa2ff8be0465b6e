"""A teacher over other rows than the student's."""

import pytest
import torch

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.divergences import DIVERGENCES
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    FittedSignal,
    Request,
    TeacherSignal,
)
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.tasks.task import Batch

N, P, TOKENS = 6, 11, 8


class Fixed(TeacherSignal):
    def __init__(self, logits_NP: torch.Tensor) -> None:
        self.logits_NP = logits_NP

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        return Answer(DenseLogits(self.logits_NP))

    def release(self) -> None:
        pass


@pytest.fixture
def logits_NP() -> torch.Tensor:
    return torch.randn(N, P, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture
def batch() -> Batch:
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    return Batch(nothing, nothing[0], nothing[0], nothing)


@pytest.mark.parametrize("vocab_size", [8, 10, 14])
def test_surplus_mass_is_taken_away_and_the_rest_sums_to_one(
    logits_NP: torch.Tensor, batch: Batch, vocab_size: int
) -> None:
    signal = FittedSignal(Fixed(logits_NP), TOKENS, vocab_size)
    fitted_NV = signal(batch).targets.dense()
    assert fitted_NV.shape == (N, vocab_size)
    every = logits_NP.double().softmax(-1)
    kept = every[:, :TOKENS] / every[:, :TOKENS].sum(-1, keepdim=True)
    found = fitted_NV.double().softmax(-1)
    torch.testing.assert_close(found[:, :TOKENS], kept, rtol=1e-6, atol=1e-7)
    assert found[:, TOKENS:].sum() < 1e-8
    assert signal.removed == pytest.approx(every[:, TOKENS:].sum(-1).mean().item(), abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_of_it_is_finite(logits_NP: torch.Tensor, batch: Batch, name: str) -> None:
    targets = FittedSignal(Fixed(logits_NP), TOKENS, P)(batch).targets
    student_NV = torch.randn(N, P, generator=torch.Generator().manual_seed(1)).requires_grad_()
    comparison = Comparison({name: DIVERGENCES[name]()})
    sums = DistillationSums(targets, torch.arange(N), Weights(1.0, 1.0), comparison)(student_NV)
    sums.total.backward()
    assert sums.total.isfinite()
    assert student_NV.grad.isfinite().all()
