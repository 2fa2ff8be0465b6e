"""The losses against eq. 1 to 3, written row by row in fp64."""

import math

import pytest
import torch
from torch import Tensor

from dwt_cli.alpha import Weights
from dwt_cli.config import Objective
from dwt_cli.objective import logits
from dwt_cli.objective.logits import Sums, distillation_sums

N, V = 11, 37
ROWS_PER_CHUNK = [1, 4, 5, 100]


def by_the_book(
    student_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    weights: Weights,
    objective: Objective,
) -> tuple[Sums, Tensor]:
    """Sums and the gradient of total, from probabilities, without any trick."""
    student_NV = student_NV.detach().double().requires_grad_()
    tau = objective.temperature
    zero = torch.zeros((), dtype=torch.float64)
    hard, soft, theirs, correct = zero, zero, zero, zero
    for row, label in enumerate(labels_N.tolist()):
        z = student_NV[row]
        p = z.exp() / z.exp().sum()
        hard = hard - p[label].log()
        correct = correct + (z[label] == z.max())
        if teacher_NV is not None:
            t = teacher_NV[row].double()
            theirs = theirs - (t.exp() / t.exp().sum())[label].log()
            p_tau = (z / tau).exp() / (z / tau).exp().sum()
            t_tau = (t / tau).exp() / (t / tau).exp().sum()
            soft = soft + (t_tau * (t_tau / p_tau).log()).sum()
    scale = tau**2 if objective.tau_squared else 1.0
    total = weights.hard * hard + weights.soft * scale * soft
    (gradient_NV,) = torch.autograd.grad(total, student_NV, allow_unused=True)
    return Sums(total, hard, soft, theirs, correct), gradient_NV


def draw(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    student_NV = torch.randn(N, V, generator=rng) * 3
    teacher_NV = torch.randn(N, V, generator=rng) * 3
    labels_N = torch.randint(V, (N,), generator=rng)
    student_NV[2, labels_N[2]] = student_NV[2].max() + 1  # a correct row, whatever the draw
    return (
        student_NV.to(device, dtype).requires_grad_(),
        teacher_NV.to(device, dtype),
        labels_N.to(device),
    )


def compare(
    student_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    weights: Weights,
    objective: Objective,
) -> None:
    sums = distillation_sums(student_NV, teacher_NV, labels_N, weights, objective)
    (sums.total / 7).backward()
    cpu_teacher = None if teacher_NV is None else teacher_NV.cpu()
    expected, gradient_NV = by_the_book(
        student_NV.cpu(), cpu_teacher, labels_N.cpu(), weights, objective
    )
    for name, value in sums._asdict().items():
        assert value.item() == pytest.approx(getattr(expected, name).item(), rel=2e-6, abs=1e-5), (
            name
        )
    assert student_NV.grad is not None
    assert student_NV.grad.dtype == student_NV.dtype
    rounding = 2**-7 if student_NV.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        student_NV.grad.cpu().double(), gradient_NV / 7, rtol=rounding, atol=1e-6
    )


@pytest.mark.parametrize("rows", ROWS_PER_CHUNK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tau", "squared"), [(1.0, False), (2.5, False), (2.5, True), (0.5, True)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 4.0), (0.0, 2.0), (1.0, 0.0)])
def test_values_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    dtype: torch.dtype,
    tau: float,
    squared: bool,
    weights: tuple[float, float],
) -> None:
    monkeypatch.setitem(logits.CHUNK_BYTES, "cpu", 4 * V * rows)
    compare(*draw(dtype), Weights(*weights), Objective(tau, squared))


@pytest.mark.parametrize("rows", ROWS_PER_CHUNK)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_without_a_teacher(monkeypatch: pytest.MonkeyPatch, rows: int, tau: float) -> None:
    monkeypatch.setitem(logits.CHUNK_BYTES, "cpu", 4 * V * rows)
    student_NV, _, labels_N = draw()
    compare(student_NV, None, labels_N, Weights(0.7, 4.0), Objective(tau))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_on_cuda(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tau: float) -> None:
    monkeypatch.setitem(logits.CHUNK_BYTES, "cuda", 4 * V * 4)
    compare(*draw(dtype, "cuda"), Weights(0.7, 4.0), Objective(tau))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_kl_is_zero_exactly_where_both_agree(tau: float) -> None:
    student_NV, teacher_NV, labels_N = draw()
    shifted_NV = student_NV.detach() + torch.arange(N)[:, None]  # the same distributions
    weights, objective = Weights(0.0, 1.0), Objective(tau)
    same = distillation_sums(student_NV, shifted_NV, labels_N, weights, objective)
    assert same.soft.item() == pytest.approx(0, abs=1e-5)
    same.total.backward()
    assert student_NV.grad is not None
    assert student_NV.grad.abs().max() < 1e-6
    for row in range(N):
        apart = distillation_sums(
            student_NV[row : row + 1],
            teacher_NV[row : row + 1],
            labels_N[row : row + 1],
            weights,
            objective,
        )
        assert apart.soft > 1e-2


def test_the_soft_loss_at_a_high_temperature_and_its_square() -> None:
    """Hinton's limit: tau^2 KL -> the mean squared difference of centred logits, halved."""
    student_NV, teacher_NV, labels_N = draw()
    sums = distillation_sums(
        student_NV, teacher_NV, labels_N, Weights(0.0, 1.0), Objective(200.0, tau_squared=True)
    )
    difference_NV = (student_NV - teacher_NV).detach()
    centred_NV = difference_NV - difference_NV.mean(1, keepdim=True)
    assert sums.total.item() == pytest.approx(centred_NV.square().sum().item() / (2 * V), rel=0.05)


@pytest.mark.parametrize("cut", range(1, N))
def test_sums_over_any_split_of_the_rows_add_up(cut: int) -> None:
    student_NV, teacher_NV, labels_N = draw()
    weights, objective = Weights(1.0, 4.0), Objective(2.0)
    whole = distillation_sums(student_NV, teacher_NV, labels_N, weights, objective)
    (whole_NV,) = torch.autograd.grad(whole.total, student_NV)
    parts = [
        distillation_sums(student_NV[rows], teacher_NV[rows], labels_N[rows], weights, objective)
        for rows in (slice(0, cut), slice(cut, N))
    ]
    for name in Sums._fields:
        assert sum(getattr(part, name).item() for part in parts) == pytest.approx(
            getattr(whole, name).item(), rel=1e-6
        )
    (parts_NV,) = torch.autograd.grad(parts[0].total + parts[1].total, student_NV)
    torch.testing.assert_close(parts_NV, whole_NV, rtol=1e-6, atol=1e-7)


def test_only_total_has_a_gradient() -> None:
    student_NV, teacher_NV, labels_N = draw()
    sums = distillation_sums(student_NV, teacher_NV, labels_N, Weights(1.0, 1.0), Objective())
    assert [name for name, value in sums._asdict().items() if value.requires_grad] == ["total"]
    assert all(value.dtype == torch.float32 for value in sums)


def test_logits_far_apart_stay_finite() -> None:
    student_NV = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher_NV = torch.tensor([[-1e4, 1e4, 0.0]])
    sums = distillation_sums(
        student_NV, teacher_NV, torch.tensor([1]), Weights(1.0, 1.0), Objective()
    )
    sums.total.backward()
    assert sums.hard.item() == pytest.approx(2e4)
    assert sums.soft.item() == pytest.approx(2e4)
    assert student_NV.grad is not None
    assert student_NV.grad.tolist() == [[2.0, -2.0, 0.0]]
    assert math.isclose(sums.teacher.item(), 0, abs_tol=1e-6)
