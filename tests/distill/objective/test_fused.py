"""The losses against eq. 1 to 3 and the relatives' formulas, written row by row in fp64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective import fused
from dwt_cli.distill.objective.base import Distribution, Divergence, Rows
from dwt_cli.distill.objective.divergences import (
    DIVERGENCES,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SquaredError,
    TopK,
)
from dwt_cli.distill.objective.fused import Comparison, DistillationSums, Sums
from dwt_cli.distill.objective.revise import (
    REVISIONS,
    ConfidenceMix,
    LabelRevision,
    NoRevision,
    Revise,
)
from dwt_cli.distill.objective.select import (
    SELECTIONS,
    AllRows,
    Confident,
    Correct,
    Gate,
    Select,
    Uncertain,
)
from dwt_cli.distill.teacher.targets import DenseLogits

N, V = 11, 37
ROWS_PER_CHUNK = [1, 4, 5, 100]


def softmax(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum()


def kl(t: Tensor, p: Tensor) -> Tensor:
    return torch.stack([a * (a / b).log() for a, b in zip(t, p, strict=True) if a > 0]).sum()


def top_k(o: TopK, p: Tensor, t: Tensor, z: Tensor, t_z: Tensor) -> Tensor:
    kept = sorted(range(V), key=lambda token: -t[token].item())[: o.k]
    rest = [token for token in range(V) if token not in kept]

    def bucketed(q: Tensor) -> Tensor:
        return torch.stack([*(q[token] for token in kept), q[rest].sum()])

    return kl(bucketed(t), bucketed(p))


def jensen_shannon(o: JensenShannon, p: Tensor, t: Tensor, z: Tensor, t_z: Tensor) -> Tensor:
    m = o.beta * t + (1 - o.beta) * p
    return o.beta * kl(t, m) + (1 - o.beta) * kl(p, m)


SLOW: dict[type[Divergence], Callable[..., Tensor]] = {
    ForwardKL: lambda o, p, t, z, t_z: kl(t, p),
    ReverseKL: lambda o, p, t, z, t_z: kl(p, t),
    JensenShannon: jensen_shannon,
    SquaredError: lambda o, p, t, z, t_z: (z - t_z).square().sum() / V,
    TopK: top_k,
}


def slowly_revised(options: Revise, t: Tensor, p: Tensor, label: int, progress: float) -> Tensor:
    one_hot = torch.zeros(V, dtype=torch.float64)
    if isinstance(options, LabelRevision):
        one_hot[label] = 1
        b = options.eta / (t.max() - t[label] + 1)
        return b * t + (1 - b) * one_hot
    if isinstance(options, ConfidenceMix):
        one_hot[p.argmax()] = 1
        a = options.most * min(1.0, progress / options.warmup)
        return (1 - a) * t + a * one_hot
    return t


def slowly_selected(options: Select, t: Tensor, p: Tensor, label: int) -> bool:
    match options:
        case Gate():
            return bool(t[label] > p[label])
        case Correct():
            return int(t.argmax()) == label
        case Confident():
            return bool(t.max() >= options.threshold)
        case Uncertain():
            return -sum(each * math.log(each) for each in t.tolist() if each) >= options.entropy
    return True


def by_the_book(
    student_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    weights: Weights,
    comparison: Comparison,
) -> tuple[Sums, Tensor]:
    """Sums and the gradient of total, from probabilities, without any trick."""
    student_NV = student_NV.detach().double().requires_grad_()
    zero = torch.zeros((), dtype=torch.float64)
    hard, theirs, correct, counted, total = zero, zero, zero, zero, zero
    soft = dict.fromkeys(comparison.objectives, zero)
    for row, label in enumerate(labels_N.tolist()):
        z = student_NV[row]
        p = softmax(z)
        hard = hard - p[label].log()
        correct = correct + (z[label] == z.max())
        if teacher_NV is None:
            continue
        t_z = teacher_NV[row].double()
        theirs = theirs - softmax(t_z)[label].log()
        if not slowly_selected(comparison.select, softmax(t_z), p, label):
            continue
        counted = counted + 1
        for name, objective in comparison.objectives.items():
            tau = objective.temperature_at(comparison.progress)
            p_tau, t_tau = softmax(z / tau), softmax(t_z / tau)
            t_tau = slowly_revised(
                comparison.revise, t_tau, p_tau.detach(), label, comparison.progress
            )
            loss = SLOW[type(objective)](objective, p_tau, t_tau, z / tau, t_z / tau)
            soft[name] = soft[name] + loss
            scale = objective.weight * (tau**2 if objective.tau_squared else 1.0)
            total = total + weights.soft * scale * loss
    total = total + weights.hard * hard
    (gradient_NV,) = torch.autograd.grad(total, student_NV, allow_unused=True)
    return Sums(total, hard, soft, theirs, correct, counted), gradient_NV


def kl_at(tau: float = 1.0, **options: Any) -> Comparison:
    return Comparison({"logits": ForwardKL(temperature=tau, **options)})


def flat(sums: Sums) -> dict[str, float]:
    named = sums._asdict()
    return {name: value.item() for name, value in {**named.pop("soft"), **named}.items()}


def sums_of(student_NV: Tensor, teacher_NV: Tensor | None, *settings: Any, **more: bool) -> Sums:
    teacher = None if teacher_NV is None else DenseLogits(teacher_NV)
    return DistillationSums(teacher, *settings, **more)(student_NV)


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
    comparison: Comparison,
    **more: bool,
) -> None:
    student_NV.grad = None
    sums = sums_of(student_NV, teacher_NV, labels_N, weights, comparison, **more)
    (sums.total / 7).backward()
    cpu_teacher = None if teacher_NV is None else teacher_NV.cpu()
    expected, gradient_NV = by_the_book(
        student_NV.cpu(), cpu_teacher, labels_N.cpu(), weights, comparison
    )
    assert flat(sums) == pytest.approx(flat(expected), rel=3e-6, abs=2e-5)
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
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * rows)
    compare(*draw(dtype), Weights(*weights), kl_at(tau, tau_squared=squared))


COMPARED = [
    ReverseKL(temperature=1.0),
    ReverseKL(temperature=2.5),
    JensenShannon(beta=0.5),
    JensenShannon(beta=0.1, temperature=2.0),
    SquaredError(),
    SquaredError(temperature=3.0, tau_squared=True),
    TopK(k=1),
    TopK(k=5, temperature=2.0),
    TopK(k=V - 1),
    ForwardKL(temperature=4.0, temperature_end=2.0),
]


def test_every_divergence_is_compared() -> None:
    assert {type(o) for o in COMPARED} == set(DIVERGENCES.values()) == SLOW.keys()


@pytest.mark.parametrize("objective", COMPARED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_divergence(
    monkeypatch: pytest.MonkeyPatch, objective: Divergence, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * 4)
    compare(*draw(dtype), Weights(0.7, 3.0), Comparison({"it": objective}, progress=0.25))


REVISED = [LabelRevision(eta=0.8), ConfidenceMix(most=0.5, warmup=0.5), ConfidenceMix(most=0.4)]


SELECTED = [
    *(Gate(), Correct(), Confident(threshold=0.4), Confident(threshold=0.7)),
    *(Uncertain(entropy=1.5), Uncertain(entropy=1.9)),
]


def test_every_revision_and_selection_is_compared() -> None:
    assert {NoRevision, *map(type, REVISED)} == set(REVISIONS.values())
    assert {AllRows, *map(type, SELECTED)} == set(SELECTIONS.values())


@pytest.mark.parametrize("revise", REVISED, ids=str)
@pytest.mark.parametrize(
    "objective", [ForwardKL(), ForwardKL(temperature=2.0), JensenShannon(), TopK(k=3)], ids=str
)
def test_each_revision(revise: Revise, objective: Divergence) -> None:
    compare(*draw(), Weights(1.0, 2.0), Comparison({"it": objective}, revise=revise, progress=0.2))


@pytest.mark.parametrize("select", SELECTED, ids=str)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_each_selection(monkeypatch: pytest.MonkeyPatch, select: Select, tau: float) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * 4)
    student_NV, teacher_NV, labels_N = draw()
    teacher_NV[1, labels_N[1]] = teacher_NV[1].max() + 1  # sure and right
    comparison = kl_at(tau)._replace(select=select)
    compare(student_NV, teacher_NV, labels_N, Weights(1.0, 4.0), comparison)
    sums = sums_of(student_NV, teacher_NV, labels_N, Weights(1.0, 4.0), comparison)
    assert 0 < sums.selected < N  # it does choose


@pytest.mark.slow
@pytest.mark.parametrize(
    "comparison",
    [
        *(Comparison({"it": objective}) for objective in [ForwardKL(), *COMPARED]),
        *(Comparison({"it": ForwardKL()}, revise=revise) for revise in REVISED),
        *(
            Comparison({"it": ForwardKL()}, select=select)
            for select in (Gate(), Correct(), Confident(), Uncertain(entropy=2.0))
        ),
        Comparison({"near": ForwardKL(temperature=2.0), "far": ReverseKL(weight=0.3)}),
    ],
    ids=str,
)
def test_compiled_it_is_the_same_at_every_moment(comparison: Comparison) -> None:
    """And compiled twice, with a teacher and without one, whatever the moments."""
    torch._dynamo.reset()
    graphs = counters["stats"]["unique_graphs"]
    tables = draw()
    for soft, progress in ((4.0, 0.0), (3.0, 0.25), (2.5, 0.5), (0.5, 0.9)):
        now = comparison._replace(progress=progress)
        compare(*tables, Weights(1.0 + progress, soft), now, compiled=True)
    student_NV, _, labels_N = tables
    for hard in (1.0, 0.7):
        compare(student_NV, None, labels_N, Weights(hard, 0.0), Comparison({}), compiled=True)
    assert counters["stats"]["unique_graphs"] - graphs == 2


@pytest.mark.slow
def test_compiled_it_goes_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.FUSED_BYTES, "cpu", 4 * V * 4)
    compare(*draw(), Weights(0.7, 3.0), kl_at(2.0), compiled=True)


def test_objectives_add_up_with_their_weights() -> None:
    objectives = {"one": ForwardKL(weight=0.5), "other": ReverseKL(weight=2.0, temperature=2.0)}
    compare(*draw(), Weights(1.0, 3.0), Comparison(objectives))


@pytest.mark.parametrize("eta", [0.1, 0.9, 0.99])
@pytest.mark.parametrize("sharpness", [1.0, 20.0])
def test_label_revision_makes_the_label_the_likeliest(eta: float, sharpness: float) -> None:
    student_NV, teacher_NV, labels_N = draw()
    t, p = Distribution.of(sharpness * teacher_NV), Distribution.of(student_NV.detach())
    assert (t.probabilities_CV.argmax(-1) != labels_N).any()
    revised = LabelRevision(eta=eta).revise(Rows(p, t, labels_N[:, None], 0.0))
    assert torch.equal(revised.probabilities_CV.argmax(-1), labels_N)
    assert torch.equal(revised.scores_CV.argmax(-1), labels_N)
    torch.testing.assert_close(revised.probabilities_CV.sum(-1), torch.ones(N))


@pytest.mark.parametrize("rows", ROWS_PER_CHUNK)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_without_a_teacher(monkeypatch: pytest.MonkeyPatch, rows: int, tau: float) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 4 * V * rows)
    student_NV, _, labels_N = draw()
    compare(student_NV, None, labels_N, Weights(0.7, 4.0), kl_at(tau))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_on_cuda(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tau: float) -> None:
    monkeypatch.setitem(fused.CHUNK_BYTES, "cuda", 4 * V * 4)
    compare(*draw(dtype, "cuda"), Weights(0.7, 4.0), kl_at(tau))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_kl_is_zero_exactly_where_both_agree(tau: float) -> None:
    student_NV, teacher_NV, labels_N = draw()
    shifted_NV = student_NV.detach() + torch.arange(N)[:, None]  # the same distributions
    weights, comparison = Weights(0.0, 1.0), kl_at(tau)
    same = sums_of(student_NV, shifted_NV, labels_N, weights, comparison)
    assert same.soft["logits"].item() == pytest.approx(0, abs=1e-5)
    same.total.backward()
    assert student_NV.grad is not None
    assert student_NV.grad.abs().max() < 1e-6
    for row in range(N):
        apart = sums_of(
            student_NV[row : row + 1],
            teacher_NV[row : row + 1],
            labels_N[row : row + 1],
            weights,
            comparison,
        )
        assert apart.soft["logits"] > 1e-2


def test_the_soft_loss_at_a_high_temperature_and_its_square() -> None:
    """Hinton's limit: tau^2 KL -> the mean squared difference of centred logits, halved."""
    student_NV, teacher_NV, labels_N = draw()
    sums = sums_of(
        student_NV, teacher_NV, labels_N, Weights(0.0, 1.0), kl_at(200.0, tau_squared=True)
    )
    difference_NV = (student_NV - teacher_NV).detach()
    centred_NV = difference_NV - difference_NV.mean(1, keepdim=True)
    assert sums.total.item() == pytest.approx(centred_NV.square().sum().item() / (2 * V), rel=0.05)


@pytest.mark.parametrize("cut", range(1, N))
def test_sums_over_any_split_of_the_rows_add_up(cut: int) -> None:
    student_NV, teacher_NV, labels_N = draw()
    weights, comparison = Weights(1.0, 4.0), kl_at(2.0)
    whole = sums_of(student_NV, teacher_NV, labels_N, weights, comparison)
    (whole_NV,) = torch.autograd.grad(whole.total, student_NV)
    parts = [
        sums_of(student_NV[rows], teacher_NV[rows], labels_N[rows], weights, comparison)
        for rows in (slice(0, cut), slice(cut, N))
    ]
    for name, value in flat(whole).items():
        assert sum(flat(part)[name] for part in parts) == pytest.approx(value, rel=1e-6)
    (parts_NV,) = torch.autograd.grad(parts[0].total + parts[1].total, student_NV)
    torch.testing.assert_close(parts_NV, whole_NV, rtol=1e-6, atol=1e-7)


def test_only_total_has_a_gradient() -> None:
    student_NV, teacher_NV, labels_N = draw()
    sums = sums_of(student_NV, teacher_NV, labels_N, Weights(1.0, 1.0), kl_at())
    values = [sums.hard, sums.soft["logits"], sums.teacher, sums.correct, sums.selected]
    assert sums.total.requires_grad
    assert not any(value.requires_grad for value in values)
    assert all(value.dtype == torch.float32 for value in (sums.total, *values))


def test_logits_far_apart_stay_finite() -> None:
    student_NV = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher_NV = torch.tensor([[-1e4, 1e4, 0.0]])
    sums = sums_of(student_NV, teacher_NV, torch.tensor([1]), Weights(1.0, 1.0), kl_at())
    sums.total.backward()
    assert sums.hard.item() == pytest.approx(2e4)
    assert sums.soft["logits"].item() == pytest.approx(2e4)
    assert student_NV.grad is not None
    assert student_NV.grad.tolist() == [[2.0, -2.0, 0.0]]
    assert math.isclose(sums.teacher.item(), 0, abs_tol=1e-6)
