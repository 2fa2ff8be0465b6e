"""The task's loss: eq. 3 with the schedule's weights; the teacher runs only when it is heard."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant, Linear, Schedule, Weights
from dwt_cli.distill.loss import Lesson, MaskedLanguageModelling
from dwt_cli.distill.objective.options import ForwardKL
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.features import Features
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Batch
from dwt_cli.training.moment import Moment


class Counting:
    """A signal that counts its calls and its releases."""

    def __init__(self, signal: ModelSignal) -> None:
        self.signal, self.calls, self.releases = signal, 0, 0

    def __call__(self, batch: Batch, features: Features | None = None) -> Tensor:
        assert self.releases == 0
        self.calls += 1
        return self.signal(batch, features)

    def release(self) -> None:
        self.releases += 1
        self.signal.release()


@dataclass
class Window(Schedule):
    """Listens in the second quarter only."""

    def weights(self, moment: Moment) -> Weights:
        return Weights(self.hard, float(0.25 <= moment.progress < 0.5))

    def soft_is_over(self, moment: Moment) -> bool:
        return moment.progress >= 0.5


def listening(schedule: Schedule, signal: Counting, tau: float = 1.0) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(Lesson(signal, schedule, {"logits": ForwardKL(temperature=tau)}))


@pytest.fixture
def student(tiny: Callable[..., Architecture]) -> MaskedLM:
    return MaskedLM(make_model(tiny(num_layers=2), 0, "student"), torch.float32)


@pytest.fixture
def teacher(tiny: Callable[..., Architecture]) -> Counting:
    model = make_model(tiny(num_layers=1), 0, "teacher")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return Counting(ModelSignal(MaskedLM(model, torch.float32)))


@pytest.fixture
def batch(corpus: Corpus, masking: Masking) -> Batch:
    from dwt_cli.tasks.batches import TrainBatches

    return TrainBatches(corpus.train, masking, 4, 0, "student").batch(0)


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_equation_3_at_a_moment(
    student: MaskedLM, teacher: Counting, batch: Batch, progress: float, tau: float
) -> None:
    loss = listening(Linear(hard=1, soft=4, soft_end=1), teacher, tau)
    found = loss(student, batch, Moment(progress))
    student_NV = student(batch.ids_BL, batch.rows_N)
    teacher_NV = teacher.signal(batch)
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


def test_alone(student: MaskedLM, batch: Batch) -> None:
    found = MaskedLanguageModelling()(student, batch, Moment(0))
    assert found.total.item() == pytest.approx(found.sums["hard_loss"].item())
    assert found.sums.keys() == {"hard_loss", "accuracy"}
    assert found.facts == {"alpha_hard": 1}


def test_the_teacher_runs_only_while_it_is_heard_and_is_released_once(
    student: MaskedLM, teacher: Counting, batch: Batch
) -> None:
    loss = listening(Window(), teacher)
    seen = []
    for step in range(8):
        found = loss(student, batch, Moment(step / 8))
        seen.append((teacher.calls, teacher.releases, "soft_loss" in found.sums))
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


def test_a_teacher_that_is_never_heard_never_runs(
    student: MaskedLM, teacher: Counting, batch: Batch
) -> None:
    loss = listening(Constant(soft=0), teacher)
    found = loss(student, batch, Moment(0))
    assert (teacher.calls, teacher.releases) == (0, 1)
    assert found.total.item() == pytest.approx(found.sums["hard_loss"].item())


def test_the_students_gradient_does_not_reach_the_teacher(
    student: MaskedLM, teacher: Counting, batch: Batch
) -> None:
    model = teacher.signal._model
    assert model is not None
    loss = listening(Constant(soft=1), teacher)
    loss(student, batch, Moment(0)).total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in model.parameters())
