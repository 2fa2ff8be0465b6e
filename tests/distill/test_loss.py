"""Eq. 3 with the schedule's weights; the teacher runs only while its weight is not zero."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant, Linear, Schedule, Weights
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.base import EntryRows, Objective
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.features import parts_for
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.objective.hidden import Hidden
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    ModelSignal,
    Request,
    TeacherSignal,
)
from dwt_cli.distill.teacher.targets import DenseLogits, SoftTargets, SparseRows
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Batch
from dwt_cli.training.protocols import Moment


class Counting(TeacherSignal):
    """A signal that counts its calls and its releases."""

    def __init__(self, signal: ModelSignal) -> None:
        self.signal, self.calls, self.releases = signal, 0, 0

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert self.releases == 0
        self.calls += 1
        return self.signal(batch, request)

    def release(self) -> None:
        self.releases += 1
        self.signal.release()


@dataclass
class Window(Schedule):
    """The soft loss counts in the second quarter only."""

    def soft_at(self, moment: Moment) -> float:
        return float(0.25 <= moment.progress < 0.5)

    def soft_is_over(self, moment: Moment) -> bool:
        return moment.progress >= 0.5


def distilled(schedule: Schedule, signal: TeacherSignal, tau: float = 1.0) -> DistillationLoss:
    return DistillationLoss(Distillation(signal, schedule, {"logits": ForwardKL(temperature=tau)}))


@pytest.fixture
def student(tiny: Callable[..., Architecture]) -> LanguageModel:
    return LanguageModel(make_model(tiny(num_layers=2), 0, "student"), torch.float32)


@pytest.fixture
def teacher_model(tiny: Callable[..., Architecture]) -> LanguageModel:
    model = make_model(tiny(num_layers=1), 0, "teacher")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return LanguageModel(model, torch.float32)


@pytest.fixture
def teacher(teacher_model: LanguageModel) -> Counting:
    return Counting(ModelSignal(teacher_model))


@pytest.fixture
def batch(corpus: Corpus, masking: Masking) -> Batch:
    return TrainBatches(corpus.train, masking, 4, 0, "student").batch(0)


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_equation_3_at_a_moment(
    student: LanguageModel, teacher: Counting, batch: Batch, progress: float, tau: float
) -> None:
    loss = distilled(Linear(hard=1, soft=4, soft_end=1), teacher, tau)
    found = loss(student, batch, Moment(progress))
    student_NV = student(batch.ids_BL, batch.rows_N).logits_NV
    teacher_NV = teacher.signal(batch).targets.dense()
    hard = torch.nn.functional.cross_entropy(student_NV, batch.labels_N, reduction="sum")
    soft = torch.nn.functional.kl_div(
        (student_NV / tau).log_softmax(-1),
        (teacher_NV / tau).log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
    alpha_soft = 4 - 3 * progress
    torch.testing.assert_close(found.total, hard + alpha_soft * soft, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.sums["hard_loss"], hard)
    torch.testing.assert_close(found.sums["soft_loss"], soft, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.sums["teacher_loss"],
        torch.nn.functional.cross_entropy(teacher_NV, batch.labels_N, reduction="sum"),
    )
    assert found.sums["accuracy"] == (student_NV.argmax(-1) == batch.labels_N).sum()
    assert found.facts == {"alpha_hard": 1, "alpha_soft": alpha_soft}


def test_alone(student: LanguageModel, batch: Batch) -> None:
    found = DistillationLoss()(student, batch, Moment(0))
    assert found.total.item() == pytest.approx(found.sums["hard_loss"].item())
    assert found.sums.keys() == {"hard_loss", "accuracy"}
    assert found.facts == {"alpha_hard": 1}


def test_the_teacher_runs_only_while_it_counts_and_is_released_once(
    student: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    loss = distilled(Window(), teacher)
    seen = []
    for step in range(8):
        found = loss(student, batch, Moment(step / 8))
        seen.append((teacher.calls, teacher.releases, "soft_loss" in found.sums))
        assert (found.facts["alpha_soft"] > 0) == ("soft_loss" in found.sums)
    assert seen == [
        (0, 0, False),
        (0, 0, False),
        (1, 0, True),
        (2, 0, True),
        (2, 1, False),
        (2, 1, False),
        (2, 1, False),
        (2, 1, False),
    ]


def test_a_teacher_that_never_counts_never_runs(
    student: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    loss = distilled(Constant(soft=0), teacher)
    found = loss(student, batch, Moment(0))
    assert (teacher.calls, teacher.releases) == (0, 1)
    assert found.total.item() == pytest.approx(found.sums["hard_loss"].item())


def test_the_students_gradient_does_not_reach_the_teacher(
    student: LanguageModel, teacher_model: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    loss = distilled(Constant(soft=1), teacher)
    loss(student, batch, Moment(0)).total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher_model.parameters())


class Adapted(TeacherSignal):
    """A signal with trainable parts: it scales another's logits, by its own loss."""

    def __init__(self, signal: TeacherSignal) -> None:
        self.signal = signal
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.scale.weight, 0.5)
        self.parts = {"adapter": self.scale}
        self.seen: list[tuple[bool, Tensor, float]] = []

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        logits_NV = self.signal(batch, request).targets.dense()
        return Answer(DenseLogits(self.scale(logits_NV[..., None]).squeeze(-1)))

    def own_loss(
        self, teacher: SoftTargets, student: SoftTargets, batch: Batch, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        teacher_NV = teacher.dense()
        self.seen.append((teacher_NV.requires_grad, student.dense(), moment.progress))
        return torch.nn.functional.cross_entropy(teacher_NV, batch.labels_N, reduction="sum"), {}

    def release(self) -> None:
        self.signal.release()


def test_a_signal_trains_its_parts_by_a_loss_of_its_own(
    student: LanguageModel, teacher_model: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    """The student's gradient is what it is with the same targets from a frozen signal."""
    signal = Adapted(teacher)
    loss = distilled(Window(), signal)
    assert list(loss.aux) == ["adapter"]
    found = loss(student, batch, Moment(0.25))
    found.total.backward()
    ((is_trained, student_NV, progress),) = signal.seen
    assert (is_trained, student_NV.requires_grad, progress) == (True, False, 0.25)
    assert torch.equal(student_NV, student(batch.ids_BL, batch.rows_N).logits_NV)
    teacher_NV = 0.5 * teacher.signal(batch).targets.dense()
    own = torch.nn.functional.cross_entropy(teacher_NV, batch.labels_N, reduction="sum")
    torch.testing.assert_close(found.sums["signal_loss"], own)
    gradients = [p.grad for p in student.parameters()]
    adapter_gradient = signal.scale.weight.grad
    assert adapter_gradient is not None and adapter_gradient.abs().item() > 0

    student.zero_grad(set_to_none=True)
    frozen = distilled(Window(), ModelSignal(teacher_model, 2.0))
    expected = frozen(student, batch, Moment(0.25))
    expected.total.backward()
    torch.testing.assert_close(found.total, expected.total + own)
    for gradient, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)

    loss(student, batch, Moment(0.0))  # a step without the teacher
    assert len(signal.seen) == 1


def test_trained_targets_without_a_loss_of_their_own_are_refused(
    student: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    signal = Adapted(teacher)
    signal.parts = {}
    with pytest.raises(AssertionError, match="trains no teacher"):
        distilled(Constant(soft=1), signal)(student, batch, Moment(0))
    teacher.parts = {"adapter": signal.scale}
    with pytest.raises(NotImplementedError):
        distilled(Constant(soft=1), teacher)(student, batch, Moment(0))


def test_aux_holds_the_parts_of_objectives_and_signal_side_by_side(
    student: LanguageModel, teacher_model: LanguageModel, teacher: Counting
) -> None:
    objectives: dict[str, Objective] = {"logits": ForwardKL(), "hidden": Hidden()}
    parts = parts_for(objectives, student.model.config, teacher_model.model.config)
    signal = Adapted(teacher)
    loss = DistillationLoss(Distillation(signal, Constant(), objectives, parts))
    assert list(loss.aux) == ["hidden", "adapter"]
    assert not any(isinstance(module, nn.ModuleDict) for module in loss.aux.values())
    signal.parts = {"hidden": signal.scale}
    with pytest.raises(AssertionError, match="name of its own"):
        DistillationLoss(Distillation(signal, Constant(), objectives, parts))


def sparse(logits_NV: Tensor, labels_N: Tensor, num_entries: int) -> SparseRows:
    """The likeliest tokens, renormalised, with all that goes with them."""
    weights_NK, ids_NK = logits_NV.softmax(-1).topk(num_entries)
    weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)
    entropies_N1 = -weights_NK.xlogy(weights_NK).sum(-1, keepdim=True)
    whole_NV = SparseRows(EntryRows(ids_NK, weights_NK, *[entropies_N1] * 4), logits_NV.shape[1])
    labels_N1 = whole_NV.dense().gather(1, labels_N[:, None])
    tops_N1 = weights_NK[:, :1].log()
    rest = (entropies_N1, labels_N1, tops_N1, labels_N1 >= tops_N1)
    return SparseRows(EntryRows(ids_NK, weights_NK, *rest), logits_NV.shape[1])


def test_the_loss_takes_targets_in_any_form(
    student: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    few = sparse(teacher.signal(batch).targets.dense(), batch.labels_N, 5)
    dense = DenseLogits(few.dense())
    found = distilled(Constant(), Recorded(few))(student, batch, Moment(0))
    expected = distilled(Constant(), Recorded(dense))(student, batch, Moment(0))
    torch.testing.assert_close(found.total, expected.total)


class Recorded(TeacherSignal):
    """SoftTargets that were written down."""

    def __init__(self, targets: SoftTargets) -> None:
        self.targets = targets

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        return Answer(self.targets)

    def release(self) -> None:
        """Nothing is held."""


def test_a_batch_with_unequal_numbers_of_targets(
    student: LanguageModel, teacher: Counting, batch: Batch
) -> None:
    """The sum over the targets that are kept, whatever block they are in."""
    num_targets = len(batch.labels_N)
    keep_N = torch.rand(num_targets, generator=torch.Generator().manual_seed(0)) < 0.6
    ragged = replace(
        batch, rows_N=batch.rows_N[keep_N], labels_N=batch.labels_N[keep_N], ragged=True
    )
    found = distilled(Constant(), teacher, 2.0)(student, ragged, Moment(0))
    student_NV = student(batch.ids_BL, batch.rows_N).logits_NV[keep_N]
    teacher_NV = teacher.signal(batch).targets.dense()[keep_N]
    expected = DistillationSums(
        DenseLogits(teacher_NV),
        ragged.labels_N,
        Weights(1.0, 1.0),
        Comparison({"logits": ForwardKL(temperature=2.0)}),
    )(student_NV)
    torch.testing.assert_close(found.total, expected.total)
