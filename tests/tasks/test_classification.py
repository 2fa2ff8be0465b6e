import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.making import make_classifier, make_model
from dwt_cli.models.wrapper import Classifier
from dwt_cli.tasks.classification import Classification, classification_sum
from dwt_cli.tasks.texts import BucketedBatches, Texts
from dwt_cli.training.protocols import Moment
from tests.conftest import tiny_architecture


def test_cross_entropy_and_its_gradient_against_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    outputs_BC = torch.randn(4, 3, generator=draw, dtype=torch.float32, requires_grad=True)
    labels = [2, 0, 1, 1]
    total = classification_sum(outputs_BC, torch.tensor(labels))
    total.backward()
    wanted, gradient = 0.0, []
    for row, label in zip(outputs_BC.tolist(), labels, strict=True):
        weights = [math.exp(value) for value in row]
        wanted -= math.log(weights[label] / sum(weights))
        gradient.append([w / sum(weights) - (c == label) for c, w in enumerate(weights)])
    assert total.item() == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(outputs_BC.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-6)


def test_one_output_is_a_regression() -> None:
    outputs_BC = torch.tensor([[1.0], [4.0]], requires_grad=True)
    total = classification_sum(outputs_BC, torch.tensor([2.5, 4.5]))
    total.backward()
    assert total.item() == pytest.approx(1.5**2 + 0.5**2)
    assert outputs_BC.grad is not None
    assert outputs_BC.grad.tolist() == [[-3.0], [-1.0]]


def test_labelled_texts_are_distilled_as_blocks_are() -> None:
    def classifier(seed: int, num_layers: int) -> Classifier:
        model = make_model(tiny_architecture(num_layers=num_layers), seed, "student")
        return Classifier(make_classifier(model, 3, seed), torch.float32)

    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 160, size).tolist() for size in (4, 9, 7, 5, 9, 8)]
    texts = Texts(rows, [[0] * len(row) for row in rows], np.array([0, 2, 1, 1, 0, 2]), pad_id=0)
    batch = BucketedBatches(texts, 6, 0, "test").batch(0)
    student, teacher = classifier(0, 2), classifier(1, 1)

    alone = DistillationLoss()(student, batch, Moment(0.0))
    assert alone.total.item() == pytest.approx(
        Classification()(student, batch, Moment(0.0)).total.item(), rel=1e-5
    )
    setup = Distillation(ModelSignal(teacher), Constant(soft=2.0), {"logits": ForwardKL()})
    found = DistillationLoss(setup)(student, batch, Moment(0.0))
    log_p_NC, log_q_NC = (
        model(*batch.inputs).logits_NV.log_softmax(-1) for model in (student, teacher)
    )
    soft = F.kl_div(log_p_NC, log_q_NC, log_target=True, reduction="sum")
    torch.testing.assert_close(found.total, alone.total + 2 * soft, rtol=1e-5, atol=1e-5)
    found.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
