"""Bases of the objectives over features of layers, means over positions. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from dwt_cli.distill.objective.base import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features, FeatureSpec
    from dwt_cli.tasks.task import Batch


class Block(NamedTuple):
    """How many positions of a block there are, and how many of them are targets, on average."""

    length: float
    num_targets: float


@dataclass
class FeatureObjective(Objective, ABC):
    """Features of layers of both models, which a single model alone has, not a mixture.

    of_texts: whether classifiers have them too.
    """

    of_texts: ClassVar[bool] = True

    def between(self, student: PreTrainedConfig, teacher: PreTrainedConfig) -> Self:
        """Return it for two models, with their layers where the settings leave them open."""
        return self

    @abstractmethod
    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        """Return the features that are compared, of the student and of the teacher."""

    @abstractmethod
    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        """Return the mean over positions, a scalar with a gradient; part: as `part` made it."""

    def part(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> nn.Module | None:
        """Return what is trained beside the student to compare these models; None for nothing.

        Raises `UserError` for two that cannot be compared.
        """
        return None

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        """Return the FLOPs, forward, of what it makes of a block's features, on either side."""
        return 0.0, 0.0

    def kept_bytes(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, num_blocks: int, length: int
    ) -> int:
        """Return what it keeps of the features for the backward pass, and works on.

        0 of those that keep less than a layer does.
        """
        return 0


def between(
    objectives: Mapping[str, Objective], student: PreTrainedConfig, teacher: PreTrainedConfig
) -> dict[str, Objective]:
    """Return the objectives for two models: `FeatureObjective.between`."""
    fitted = {name: o.between(student, teacher) for name, o in over_features(objectives).items()}
    return {**objectives, **fitted}


def over_features(objectives: Mapping[str, Objective]) -> dict[str, FeatureObjective]:
    """Return those that compare features, by name."""
    return {name: each for name, each in objectives.items() if isinstance(each, FeatureObjective)}


def requested(objectives: Mapping[str, Objective]) -> tuple[FeatureSpec, FeatureSpec]:
    """Return the features that all of them together need of the student, and of the teacher."""
    each = [objective.requested() for objective in over_features(objectives).values()]
    none: FeatureSpec = frozenset()
    return none.union(*(ours for ours, _ in each)), none.union(*(theirs for _, theirs in each))


def parts_for(
    objectives: Mapping[str, Objective], student: PreTrainedConfig, teacher: PreTrainedConfig
) -> dict[str, nn.Module]:
    """Return what is trained to compare the features of two models, by the objectives' names.

    objectives: `between` the two. Raises `UserError` for two models that cannot be compared.
    """
    from dwt_cli.models.features import check_layers

    parts = {}
    for name, objective in over_features(objectives).items():
        setting, (ours, theirs) = f"objective.{name}", objective.requested()
        check_layers(student, ours, f"{setting}, student")
        check_layers(teacher, theirs, f"{setting}, teacher")
        if part := objective.part(setting, student, teacher):
            parts[name] = part
    return parts


@dataclass
class LayerPairs(FeatureObjective, ABC):
    """A feature at [student layer, teacher layer] pairs, and the mean over them.

    pairs: layers count from 0, or from -1; null: every layer of the student, by `each_layer`.
    """

    kind: ClassVar[str]

    pairs: list[list[int]] | None = None

    @property
    def layers(self) -> list[list[int]]:
        """The pairs between two models."""
        assert self.pairs is not None, "`between` has set them"
        return self.pairs

    def between(self, student: PreTrainedConfig, teacher: PreTrainedConfig) -> Self:
        if self.pairs is not None:
            return self
        return replace(self, pairs=each_layer(student.num_hidden_layers, teacher.num_hidden_layers))

    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        ours, theirs = zip(*self.layers, strict=True)
        return frozenset((self.kind, n) for n in ours), frozenset((self.kind, n) for n in theirs)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the pairs, a line each."""
        if self.pairs is not None:
            yield from no_pairs(setting, self.pairs, "student layer, teacher layer", "[[-1,-1]]")


def each_layer(num_student: int, num_teacher: int) -> list[list[int]]:
    """Return a pair for every layer of the student, from 0: m of M with ceil(m M' / M) of M'.

    Counted from 1, and so TinyBERT's map (arXiv 1909.10351, section 3.1) where M divides M'. A
    student that is deeper has several layers in a row that listen to one: [0, 0, 1, 1] of 2. That
    is ours, for what ERNIE-Tiny (arXiv 2106.02241) does is not known.
    """
    return [[m, -(-(m + 1) * num_teacher // num_student) - 1] for m in range(num_student)]


def projection_flops(
    num_positions: float, student: PreTrainedConfig, teacher: PreTrainedConfig
) -> float:
    """Return the FLOPs, forward, of maps between the widths of two models, over all positions."""
    return 2 * num_positions * student.hidden_size * teacher.hidden_size


def no_pairs(
    setting: str, pairs: Sequence[Sequence[int]], kind: str, example: str
) -> Iterator[str]:
    """Yield a line for each that is no pair, and where there is none."""
    if not pairs:
        yield f"{setting}.pairs=[]: name at least one pair, as in {example}"
    for pair in pairs:
        if len(pair) != 2:
            yield f"{setting}.pairs: {pair} is no pair [{kind}]"
