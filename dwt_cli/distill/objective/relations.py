"""Relations between positions, compared in nats (MiniLM and its second version). Imports no torch.

Legend: B blocks, L positions, H heads, E width of a head, R relation heads, F width of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import at_least
from dwt_cli.distill.objective.features import Block, FeatureObjective

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features, FeatureSpec, Heads
    from dwt_cli.tasks.task import Batch


@dataclass
class MiniLM(FeatureObjective):
    """Attention and value relation of one layer on each side; layers count from 0, or from -1.

    KL of the attention distributions plus KL of the value relations (arXiv 2002.10957, 3.1-3.2).
    The heads are compared one by one, so there are equally many on both sides.
    """

    num_relations: ClassVar[int] = 2
    num_copies: ClassVar[int] = 3  # of queries, keys and values together

    teacher_layer: int = -1
    student_layer: int = -1

    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        ours, theirs = ("heads", self.student_layer), ("heads", self.teacher_layer)
        return frozenset({ours}), frozenset({theirs})

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        check_heads(setting, "MiniLM", student, teacher)

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        ours, theirs = products_flops(student, block), products_flops(teacher, block)
        return self.num_relations * ours, self.num_relations * theirs

    def kept_bytes(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, num_blocks: int, length: int
    ) -> int:
        """Return two tables of each relation, three that are worked on, and copies of heads."""
        heads = sum(heads_bytes(each, num_blocks, length) for each in (student, teacher))
        table = tables_bytes(self._num_heads(student), num_blocks, length)
        return (2 * self.num_relations + 3) * table + self.num_copies * heads

    def _num_heads(self, student: PreTrainedConfig) -> int:
        """Return how many heads a relation is between."""
        return int(student.num_attention_heads)

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

    num_relations: ClassVar[int] = 3
    num_copies: ClassVar[int] = 6

    num_relation_heads: int | None = at_least(1, None)

    def _num_heads(self, student: PreTrainedConfig) -> int:
        return self.num_relation_heads or int(student.num_attention_heads)

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        from dwt_cli.models.anatomy import head_size

        num_heads = self._num_heads(student)
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


def products_flops(config: PreTrainedConfig, block: Block) -> float:
    """Return the FLOPs of the products of all positions of a block, by every head."""
    from dwt_cli.models.anatomy import head_size

    return 2 * config.num_attention_heads * head_size(config) * block.length**2


def heads_bytes(config: PreTrainedConfig, num_blocks: int, length: int) -> int:
    """Return the bytes of a layer's queries (or keys, or values) in fp32."""
    from dwt_cli.models.anatomy import head_size

    return 4 * num_blocks * length * config.num_attention_heads * head_size(config)


def tables_bytes(num_heads: int, num_blocks: int, length: int) -> int:
    """Return the bytes of the heads' products of all positions in fp32."""
    return 4 * num_blocks * num_heads * length**2


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
