"""A teacher without a model, the control of what a distribution that knows the label does alone.

Legend: N target rows, V vocabulary.
"""

import math

import torch

from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    DenseLogits,
    Request,
    TeacherSignal,
)
from dwt_cli.tasks.task import Batch


class VirtualSignal(TeacherSignal):
    """Tf-KD's manually designed teacher (Yuan et al., CVPR 2020, arXiv 1909.11723).

    p(c) = confidence for the label, (1 - confidence) / (V - 1) for every other class. Its logits
    are the logarithms, fp32, which the objective's temperature softens as it does a model's logits.
    At temperature 1, hard * cross-entropy + soft * KL has the gradient of (hard + soft) times the
    cross-entropy with labels smoothed to (hard + soft * confidence) / (hard + soft).
    """

    def __init__(self, confidence: float, vocab_size: int) -> None:
        assert 0 < confidence < 1
        self._label = math.log(confidence)
        self._other = math.log((1 - confidence) / (vocab_size - 1))
        self._vocab_size = vocab_size

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert not request.features, "without a model there are no features"
        labels_N1 = batch.labels_N[:, None]
        size = (len(labels_N1), self._vocab_size)
        logits_NV = torch.full(size, self._other, device=labels_N1.device)
        return Answer(DenseLogits(logits_NV.scatter_(1, labels_N1, self._label)))
