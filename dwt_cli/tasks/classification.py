"""Labelled texts: texts or pairs of texts to classes, or to a number (regression).

Legend: N texts, C classes (1 for a regression).
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dwt_cli.tasks.texts import TextBatch
from dwt_cli.training.protocols import LossSum, Moment, Numbers

Outputs = NDArray[np.float32]
"""The outputs of a classifier for texts (N, C)."""


class Classification:
    """The loss of a micro-batch; its targets are the texts."""

    def __init__(self) -> None:
        self.aux = nn.ModuleDict()

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        """Return the memory as it is: every step weighs alike."""
        return memory

    def __call__(self, model: nn.Module, batch: TextBatch, moment: Moment) -> LossSum:
        outputs_NC = model(*batch.inputs).logits_NV
        return LossSum(classification_sum(outputs_NC, batch.labels_N), {}, {})


def classification_sum(outputs_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Return the sum over texts, fp32, of the cross-entropy in nats, or of the squared error."""
    outputs_NC = outputs_NC.float()
    if outputs_NC.shape[1] == 1:
        return F.mse_loss(outputs_NC[:, 0], labels_N, reduction="sum")
    return F.cross_entropy(outputs_NC, labels_N, reduction="sum")
