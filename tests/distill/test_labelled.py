"""The losses of labelled texts: classes, and numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL, SquaredError
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.making import make_classifier, make_model
from dwt_cli.models.wrapper import Classifier
from dwt_cli.tasks.texts import BucketedBatches, TextBatch, Texts
from dwt_cli.training.protocols import Moment
from tests.conftest import tiny_architecture


def classifier(seed: int, num_layers: int, num_outputs: int = 3) -> Classifier:
    model = make_model(tiny_architecture(num_layers=num_layers), seed, "student")
    return Classifier(make_classifier(model, num_outputs, seed), torch.float32)


def batch_of(labels: list[float]) -> TextBatch:
    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 160, size).tolist() for size in (4, 9, 7, 5, 9, 8)]
    kind = np.float32 if isinstance(labels[0], float) else np.int64
    texts = Texts(rows, [[0] * len(row) for row in rows], np.array(labels, kind), pad_id=0)
    return BucketedBatches(texts, 6, 0, "test").batch(0)


def test_labelled_texts_are_distilled_as_blocks_are() -> None:
    student, teacher, batch = classifier(0, 2), classifier(1, 1), batch_of([0, 2, 1, 1, 0, 2])
    alone = DistillationLoss()(student, batch, Moment(0.0))
    outputs_NC = student(*batch.inputs).logits_NV
    hard = F.cross_entropy(outputs_NC, batch.labels_N, reduction="sum")
    torch.testing.assert_close(alone.total, hard, rtol=1e-5, atol=1e-5)
    assert alone.sums["accuracy"] == (outputs_NC.argmax(1) == batch.labels_N).sum()
    setup = Distillation(ModelSignal(teacher), Constant(soft=2.0), {"logits": ForwardKL()})
    found = DistillationLoss(setup)(student, batch, Moment(0.0))
    log_p_NC, log_q_NC = (
        model(*batch.inputs).logits_NV.log_softmax(-1) for model in (student, teacher)
    )
    soft = F.kl_div(log_p_NC, log_q_NC, log_target=True, reduction="sum")
    torch.testing.assert_close(found.total, alone.total + 2 * soft, rtol=1e-5, atol=1e-5)
    found.total.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_numbers_are_compared_by_squares() -> None:
    labels = [0.5, 4.0, 2.5, 1.0, 0.0, 5.0]
    student, teacher, batch = classifier(0, 2, 1), classifier(1, 1, 1), batch_of(labels)
    objectives = {"mse": SquaredError(weight=3.0)}
    setup = Distillation(ModelSignal(teacher), Constant(hard=0.5, soft=2.0), objectives)
    found = DistillationLoss(setup)(student, batch, Moment(0.0))

    def numbers(model: Classifier) -> list[float]:
        return [each.item() for each in model(*batch.inputs).logits_NV.flatten()]

    ours, theirs, wanted = numbers(student), numbers(teacher), batch.labels_N.tolist()
    hard = sum((p - y) ** 2 for p, y in zip(ours, wanted, strict=True))
    soft = sum((p - t) ** 2 for p, t in zip(ours, theirs, strict=True))
    assert found.total.item() == pytest.approx(0.5 * hard + 2 * 3 * soft, rel=1e-5)
    assert found.sums["hard_loss"].item() == pytest.approx(hard, rel=1e-5)
    assert found.sums["soft_loss"].item() == pytest.approx(3 * soft, rel=1e-5)
    of_teacher = sum((t - y) ** 2 for t, y in zip(theirs, wanted, strict=True))
    assert found.sums["teacher_loss"].item() == pytest.approx(of_teacher, rel=1e-5)
    assert "accuracy" not in found.sums

    found.total.backward()
    head: Tensor = student.model.classifier.bias.grad  # type: ignore[union-attr,assignment]
    slope = sum(p - y + 12 * (p - t) for p, t, y in zip(ours, theirs, wanted, strict=True))
    assert head.item() == pytest.approx(slope, rel=1e-4)
    assert all(p.grad is None for p in teacher.parameters())
    alone = DistillationLoss()(student, batch, Moment(0.0))
    assert alone.total.item() == pytest.approx(hard, rel=1e-5)
