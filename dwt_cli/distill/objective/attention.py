"""The scores of attention, before the softmax. Imports no torch at the top.

Legend: B blocks, L positions, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.distill.objective.features import Block, LayerPairs
from dwt_cli.distill.objective.relations import (
    check_heads,
    heads_bytes,
    products_flops,
    scaled_products,
    tables_bytes,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features
    from dwt_cli.tasks.task import Batch


@dataclass
class Attention(LayerPairs):
    """Mean squared difference of attention scores, head by head, at pairs of layers.

    TinyBERT's (arXiv 1909.10351, eq. 7), which ERNIE-Tiny's latent loss (arXiv 2106.02241) is taken
    to be, for its formula was not checked against the paper. TinyBERT sums over layers; here it is
    their mean, as in `Hidden`. Padding, later positions and other documents, which a position does
    not see, do not count; windows of local attention are not masked. Scores are formed anew from
    queries and keys, a product for each side and pair, so that the models keep their own attention.
    """

    kind: ClassVar[str] = "heads"

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        check_heads(setting, "attention", student, teacher)

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        return self.difference(student, teacher)

    def difference(self, student: Features, teacher: Features) -> Tensor:
        """Return what `compare` does, for which a batch says nothing more."""
        import torch

        means = []
        for ours, theirs in self.layers:
            p, t = student.heads[ours], teacher.heads[theirs]
            differences_BHLL = scaled_products(*p[:2]) - scaled_products(*t[:2])
            means.append(_mean_square(differences_BHLL, student))
        return torch.stack(means).mean()

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        ours, theirs = products_flops(student, block), products_flops(teacher, block)
        return len(self.layers) * ours, len(self.layers) * theirs

    def kept_bytes(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, num_blocks: int, length: int
    ) -> int:
        """Return the tables of differences, four that are worked on, and both sides' heads."""
        tables = (len(self.layers) + 4) * tables_bytes(
            student.num_attention_heads, num_blocks, length
        )
        heads = sum(heads_bytes(each, num_blocks, length) for each in (student, teacher))
        return tables + 3 * len(self.layers) * heads


def _mean_square(differences_BHLL: Tensor, of: Features) -> Tensor:
    """Return the mean over what a position sees, and over positions."""
    if (is_unseen := of.unseen(differences_BHLL)) is None:
        return differences_BHLL.square().mean()
    num_seen_BL = (~is_unseen[:, 0]).sum(-1).clamp(min=1)  # padding sees nothing
    squares_BHLL = differences_BHLL.masked_fill(is_unseen, 0).square()
    return of.mean(squares_BHLL.mean(1).sum(-1) / num_seen_BL)
