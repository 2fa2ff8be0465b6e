"""Objectives over features of layers: hidden states, relations between positions.

Imports no torch. Losses are means over positions; those of relations are in nats. Legend: B blocks,
L positions, H heads, E width of a head, R relation heads, F width of a relation head, S and T
widths of student, teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Self

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import at_least
from dwt_cli.distill.objective.base import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features, FeatureSpec, Heads
    from dwt_cli.tasks.task import Batch


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

    def flops(self, config: PreTrainedConfig, block_length: float) -> float:
        """Return the FLOPs, forward, of what it makes of the features of one model and block."""
        return 0.0

    def kept_bytes(self, config: PreTrainedConfig, num_blocks: int, block_length: int) -> int:
        """Return what it keeps of the student's features for the backward pass, and works on."""
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
class MiniLM(FeatureObjective):
    """Attention and value relation of one layer on each side; layers count from 0, or from -1.

    KL of the attention distributions plus KL of the value relations (arXiv 2002.10957, 3.1-3.2).
    The heads are compared one by one, so there are equally many on both sides.
    """

    teacher_layer: int = -1
    student_layer: int = -1

    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        ours, theirs = ("heads", self.student_layer), ("heads", self.teacher_layer)
        return frozenset({ours}), frozenset({theirs})

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        check_heads(setting, "MiniLM", student, teacher)

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        p, t = student.heads[self.student_layer], teacher.heads[self.teacher_layer]
        return self._compare_heads(p, t, student)

    def _compare_heads(self, p: Heads, t: Heads, of: Features) -> Tensor:
        attention, values = (
            _kl(_relation(t[left], t[right], of), _relation(p[left], p[right], of), of)
            for left, right in ((0, 1), (2, 2))  # queries with keys, values with values
        )
        return attention + values


def check_heads(
    setting: str, named: str, student: PreTrainedConfig, teacher: PreTrainedConfig
) -> None:
    """Raise `UserError` unless attention of these models can be compared head by head."""
    if student.num_attention_heads != teacher.num_attention_heads:
        raise UserError(
            f"{setting}: the student has {student.num_attention_heads} heads, the teacher "
            f"{teacher.num_attention_heads}, and {named} compares head by head; choose "
            "objective=minilmv2, or equal head counts"
        )
    for config in (student, teacher):
        if cap := getattr(config, "attn_logit_softcapping", None):
            raise UserError(
                f"{setting}: a {config.model_type} caps what attention sees at {cap}, which "
                "is not compared; choose objective=minilmv2"
            )


@dataclass
class MiniLMv2(MiniLM):
    """Mean KL of the q-q, k-k and v-v relations of one layer (arXiv 2012.15828, section 3).

    Heads are joined and cut anew into relation heads, so head counts and widths may differ.
    num_relation_heads: null: as many as the student has heads.
    """

    num_relation_heads: int | None = at_least(1, None)

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        from dwt_cli.models.anatomy import head_size

        num_heads = self.num_relation_heads or student.num_attention_heads
        for role, config in (("student", student), ("teacher", teacher)):
            width = config.num_attention_heads * head_size(config)
            if width % num_heads:
                raise UserError(
                    f"{setting}.num_relation_heads={num_heads} does not divide the {role}'s width "
                    f"of {width}: choose a divisor of both widths"
                )

    def _compare_heads(self, p: Heads, t: Heads, of: Features) -> Tensor:
        num_heads = self.num_relation_heads or p.queries_BHLE.shape[1]
        losses = []
        for p_BHLE, t_BHLE in zip(p, t, strict=True):
            p_BRLF, t_BRLF = _recut(p_BHLE, num_heads), _recut(t_BHLE, num_heads)
            of_teacher = _relation(t_BRLF, t_BRLF, of)
            losses.append(_kl(of_teacher, _relation(p_BRLF, p_BRLF, of), of))
        return sum(losses[1:], losses[0]) / len(losses)


def _recut(part_BHLE: Tensor, num_heads: int) -> Tensor:
    """Return the heads (B, R, L, F) that the joined heads are cut into."""
    joined_BLD = part_BHLE.transpose(1, 2).flatten(2)
    return joined_BLD.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def scaled_products(left_BHLE: Tensor, right_BHLE: Tensor) -> Tensor:
    """Return the products of positions over the root of a head's width, (B, H, L, L), fp32."""
    left_BHLE, right_BHLE = left_BHLE.float(), right_BHLE.float()
    return left_BHLE @ right_BHLE.transpose(-1, -2) / left_BHLE.shape[-1] ** 0.5


def _relation(left_BHLE: Tensor, right_BHLE: Tensor, of: Features) -> Tensor:
    """Return the log-softmax of the scaled products of positions, (B, H, L, L), fp32.

    of: the student's; products of what is unseen are left out.
    """
    products = scaled_products(left_BHLE, right_BHLE)
    if (is_unseen := of.unseen(products)) is not None:
        # finite, so that the difference of two of them is a number
        products = products.masked_fill(is_unseen, -1e30)
    return products.log_softmax(-1)


def _kl(teacher_BHLL: Tensor, student_BHLL: Tensor, of: Features) -> Tensor:
    """Return the mean KL(teacher || student) of log-probabilities over the last axis."""
    kl_BHL = (teacher_BHLL.exp() * (teacher_BHLL - student_BHLL)).sum(-1)
    return of.mean(kl_BHL, positions=2)


class Distance(Enum):
    """cosine: one minus it. mse: mean squared difference."""

    cosine = "cosine"
    mse = "mse"


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


@dataclass
class Hidden(LayerPairs):
    """Hidden states at [student layer, teacher layer] pairs, each through a learned projection.

    The mean distance over the pairs. Cosine over one pair, an early layer of the student and the
    teacher's last, is LET; the squared difference is FitNets' hint (arXiv 1412.6550, eq. 3).
    A teacher with another tokenizer is compared where its tokens end with the student's; any other
    position counts as one without a distance.
    """

    across: ClassVar[bool] = True
    kind: ClassVar[str] = "hidden"

    pairs: list[list[int]] | None = field(default_factory=lambda: [[-1, -1]])
    distance: Distance = Distance.cosine

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> nn.Module:
        from dwt_cli.distill.objective.projections import Projections

        return Projections(len(self.layers), student.hidden_size, teacher.hidden_size)

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        import torch
        from torch.nn import functional as F

        assert part is not None, "made for the two models"
        projected = part([student.hidden[ours].float() for ours, _ in self.layers])
        hidden = [teacher.hidden[theirs].float() for _, theirs in self.layers]
        if (taught_BL := teacher.taught_BL) is not None:
            return self._where(taught_BL, projected, hidden)
        distances = [
            1 - student.mean(F.cosine_similarity(ours_BLT, theirs_BLT, dim=-1))
            if self.distance is Distance.cosine
            else student.mean(F.mse_loss(ours_BLT, theirs_BLT, reduction="none"))
            for ours_BLT, theirs_BLT in zip(projected, hidden, strict=True)
        ]
        return torch.stack(distances).mean()

    def _where(self, taught_BL: Tensor, projected: list[Tensor], hidden: list[Tensor]) -> Tensor:
        """Return the mean over all positions, of which the others are zero."""
        import torch
        from torch.nn import functional as F

        distances = []
        for ours_BLT, theirs_BLT in zip(projected, hidden, strict=True):
            ours_AT, theirs_AT = ours_BLT[taught_BL], theirs_BLT[taught_BL]
            if self.distance is Distance.cosine:
                distances.append((1 - F.cosine_similarity(ours_AT, theirs_AT, dim=-1)).sum())
            else:
                distances.append((ours_AT - theirs_AT).square().mean(-1).sum())
        return torch.stack(distances).mean() / taught_BL.numel()


def no_pairs(
    setting: str, pairs: Sequence[Sequence[int]], kind: str, example: str
) -> Iterator[str]:
    """Yield a line for each that is no pair, and where there is none."""
    if not pairs:
        yield f"{setting}.pairs=[]: name at least one pair, as in {example}"
    for pair in pairs:
        if len(pair) != 2:
            yield f"{setting}.pairs: {pair} is no pair [{kind}]"
