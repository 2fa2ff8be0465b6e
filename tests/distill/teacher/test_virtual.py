import math

import pytest
import torch

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.teacher.signal import VirtualSignal
from dwt_cli.tasks.task import Batch

V = 13
LABELS_N = torch.tensor([0, 5, 12, 5])
BATCH = Batch(
    torch.zeros((2, 8), dtype=torch.int64),
    torch.tensor([1, 3, 9, 15]),
    LABELS_N,
    torch.zeros((2, 3)),
)


@pytest.mark.parametrize("confidence", [0.99, 0.9, 0.2])
def test_the_confidence_on_the_label_and_the_rest_even(confidence: float) -> None:
    signal = VirtualSignal(confidence, V)
    found_NV = signal(BATCH).targets.dense().double().exp()
    for row, label in enumerate(LABELS_N.tolist()):
        for entry in range(V):
            wanted = confidence if entry == label else (1 - confidence) / (V - 1)
            assert found_NV[row, entry].item() == pytest.approx(wanted, rel=1e-5)
    signal.release()


@pytest.mark.parametrize(("hard", "soft"), [(0.0, 1.0), (1.0, 1.0), (0.5, 4.0)])
def test_with_it_the_loss_is_label_smoothing(hard: float, soft: float) -> None:
    """Against torch's own, in fp64: the gradient, and the value up to the teacher's entropy."""
    confidence = 0.9
    student_NV = torch.randn(4, V, generator=torch.Generator().manual_seed(0))
    ours_NV = student_NV.clone().requires_grad_()
    sums = DistillationSums(
        VirtualSignal(confidence, V)(BATCH).targets,
        LABELS_N,
        Weights(hard, soft),
        Comparison({"logits": ForwardKL()}),
    )(ours_NV)
    sums.total.backward()

    on_label = (hard + soft * confidence) / (hard + soft)
    smoothing = (1 - on_label) * V / (V - 1)  # torch spreads it over all classes, the label too
    theirs_NV = student_NV.double().requires_grad_()
    loss = (hard + soft) * torch.nn.functional.cross_entropy(
        theirs_NV, LABELS_N, label_smoothing=smoothing, reduction="sum"
    )
    loss.backward()
    torch.testing.assert_close(ours_NV.grad.double(), theirs_NV.grad, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
    rest = 1 - confidence
    entropy = -confidence * math.log(confidence) - rest * math.log(rest / (V - 1))
    expected = loss.item() - soft * len(LABELS_N) * entropy
    assert sums.total.item() == pytest.approx(expected, rel=1e-5)
