"""Fine-tuning: texts or pairs of texts to classes, or to a number (regression).

Legend: B texts, C classes (1 for a regression).
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from dwt_cli.tasks.texts import Batch
from dwt_cli.training.moment import Moment
from dwt_cli.training.protocols import LossSum


class Classification:
    """The loss of a micro-batch; its targets are the texts."""

    def __init__(self) -> None:
        self.aux = nn.ModuleDict()

    def remember(
        self, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return the memory as it is: every step weighs alike."""
        return memory

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> LossSum:
        outputs_BC = model(batch.ids_BL, batch.mask_BL, batch.segments_BL)
        return LossSum(classification_sum(outputs_BC, batch.labels_B), {}, {})


def classification_sum(outputs_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the sum over texts, fp32, of the cross-entropy in nats, or of the squared error."""
    outputs_BC = outputs_BC.float()
    if outputs_BC.shape[1] == 1:
        return F.mse_loss(outputs_BC[:, 0], labels_B, reduction="sum")
    return F.cross_entropy(outputs_BC, labels_B, reduction="sum")
