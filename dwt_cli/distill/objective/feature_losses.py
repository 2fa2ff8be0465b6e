"""The modules of the objectives that compare features of layers, made for two models."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from transformers import PreTrainedConfig

from dwt_cli.distill.objective.base import Objective
from dwt_cli.models.features import Features, FeatureSpec, check_layers


class FeatureLoss(nn.Module):
    """Compares features of both models. Its parameters are trained beside the student.

    student, teacher: the features that it needs of each.
    """

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Return the mean over positions, a scalar with a gradient."""
        raise NotImplementedError


def feature_losses(
    objectives: Mapping[str, Objective], student: PreTrainedConfig, teacher: PreTrainedConfig
) -> dict[str, FeatureLoss]:
    """Return a module for each objective that needs features, by its name.

    Raises `UserError` for two models that cannot be compared.
    """
    losses = {}
    for name, objective in objectives.items():
        setting = f"objective.{name}"
        loss = objective.feature_loss(setting, student, teacher)
        if loss is not None:
            check_layers(student, loss.student, f"{setting}, student")
            check_layers(teacher, loss.teacher, f"{setting}, teacher")
            losses[name] = loss
    return losses


def requested(losses: Iterable[FeatureLoss]) -> tuple[FeatureSpec, FeatureSpec]:
    """Return the features that all of them together need of the student, and of the teacher."""
    student, teacher = FeatureSpec(), FeatureSpec()
    for loss in losses:
        student, teacher = student | loss.student, teacher | loss.teacher
    return student, teacher
