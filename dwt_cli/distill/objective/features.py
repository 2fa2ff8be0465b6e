"""The objectives that compare features of layers: hidden states, relations between positions.

Imports no torch: each builds its module when two models are known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import at_least
from dwt_cli.distill.objective.base import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from dwt_cli.distill.objective.feature_losses import FeatureLoss


@dataclass
class FeatureObjective(Objective, ABC):
    """Features of layers of both models, as a mean over positions."""

    needs_features: ClassVar[bool] = True

    @abstractmethod
    def feature_loss(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> FeatureLoss: ...


@dataclass
class MiniLM(FeatureObjective):
    """Attention and value relation of one layer on each side; layers count from 0, or from -1."""

    teacher_layer: int = -1
    student_layer: int = -1

    def feature_loss(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> FeatureLoss:
        from dwt_cli.distill.objective.relations import MiniLMRelations

        if student.num_attention_heads != teacher.num_attention_heads:
            raise UserError(
                f"{setting}: the student has {student.num_attention_heads} heads, the teacher "
                f"{teacher.num_attention_heads}, and MiniLM compares head by head; choose "
                "objective=minilmv2, or equal head counts"
            )
        return MiniLMRelations(self.student_layer, self.teacher_layer)


@dataclass
class MiniLMv2(MiniLM):
    """q-q, k-k and v-v relations of one layer; null: as many relation heads as the student has."""

    num_relation_heads: int | None = at_least(1, None)

    def feature_loss(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> FeatureLoss:
        from dwt_cli.distill.objective.relations import MiniLMv2Relations

        num_heads = self.num_relation_heads or student.num_attention_heads
        for role, config in (("student", student), ("teacher", teacher)):
            if config.hidden_size % num_heads:
                raise UserError(
                    f"{setting}.num_relation_heads={num_heads} does not divide the {role}'s width "
                    f"of {config.hidden_size}: choose a divisor of both widths"
                )
        return MiniLMv2Relations(self.student_layer, self.teacher_layer, num_heads)


class Distance(Enum):
    """cosine: one minus it. mse: mean squared difference."""

    cosine = "cosine"
    mse = "mse"


@dataclass
class Hidden(FeatureObjective):
    """Hidden states at [student layer, teacher layer] pairs, through a learned projection."""

    pairs: list[list[int]] = field(default_factory=lambda: [[-1, -1]])
    distance: Distance = Distance.cosine

    def feature_loss(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> FeatureLoss:
        from dwt_cli.distill.objective.hidden import HiddenStates

        pairs = [(of_student, of_teacher) for of_student, of_teacher in self.pairs]
        return HiddenStates(
            pairs, self.distance is Distance.cosine, student.hidden_size, teacher.hidden_size
        )

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the pairs, a line each."""
        if not self.pairs:
            yield f"{setting}.pairs=[]: name at least one pair, as in [[-1,-1]]"
        for pair in self.pairs:
            if len(pair) != 2:
                yield f"{setting}.pairs: {pair} is no pair [student layer, teacher layer]"


FEATURE_OBJECTIVES: dict[str, type[FeatureObjective]] = {
    "minilm": MiniLM,
    "minilmv2": MiniLMv2,
    "hidden": Hidden,
}
