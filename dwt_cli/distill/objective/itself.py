"""A student whose deep layers teach its shallow ones, after a withdrawn paper (arXiv 2103.07350).

Its formulas are not in what can be read of it: the squared difference is that of a published
relative (Tf-FD, ECCV 2022), the transport has DeepEMD's form (CVPR 2020). Imports no torch at the
top. Legend: B blocks, L positions, S shallow and T deep positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from dwt_cli.base.errors import UserError
from dwt_cli.distill.objective.features import (
    Block,
    FeatureObjective,
    no_pairs,
    projection_flops,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features, FeatureSpec
    from dwt_cli.tasks.task import Batch

# of the transport, whose costs are in [0, 2]: less and less, so that few rounds are enough
_SMOOTHINGS, _NUM_ROUNDS = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03), 10


class OwnDistance(Enum):
    """mse: position by position. emd: 1 - cosine over the cheapest flow between positions."""

    mse = "mse"
    emd = "emd"


@dataclass
class SelfFeatures(FeatureObjective):
    """Hidden states at [shallow layer, deep layer] pairs of the student; the deep side is given.

    The mean over the pairs. projection: the shallow side goes through a learned map. A deep layer
    of -2 leaves the last one on the target rows.
    """

    pairs: list[list[int]] = field(default_factory=lambda: [[0, -2], [1, -2]])
    distance: OwnDistance = OwnDistance.mse
    projection: bool = False

    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        shallow, deep = zip(*self.pairs, strict=True)
        return frozenset(("hidden", n) for n in shallow), frozenset(("hidden", n) for n in deep)

    def part(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> nn.Module | None:
        from dwt_cli.distill.objective.projections import Projections

        depth = student.num_hidden_layers
        for shallow, deep in self.pairs:
            if shallow % depth >= deep % depth:
                raise UserError(
                    f"{setting}.pairs: of a student with {depth} layers [{shallow},{deep}] is no "
                    "[shallow layer, deep layer]; give others, or a deeper student"
                )
        widths = (student.hidden_size, student.hidden_size)
        return Projections(len(self.pairs), *widths) if self.projection else None

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        num_positions = len(self.pairs) * block.length
        projected = self.projection * projection_flops(num_positions, student, student)
        costs = 2 * num_positions * (block.length + 2) * student.hidden_size  # and the weights
        return projected + costs * (self.distance is OwnDistance.emd), 0.0

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        import torch
        from torch.nn import functional as F

        ours = [student.hidden[shallow].float() for shallow, _ in self.pairs]
        if part is not None:
            ours = part(ours)
        theirs = [teacher.hidden[deep].float() for _, deep in self.pairs]
        distance = F.mse_loss if self.distance is OwnDistance.mse else transported
        return torch.stack([distance(*pair) for pair in zip(ours, theirs, strict=True)]).mean()

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the pairs, a line each."""
        return no_pairs(setting, self.pairs, "shallow layer, deep layer", "[[0,-2]]")


def transported(ours_BSD: Tensor, theirs_BTD: Tensor) -> Tensor:
    """Return the mean cost 1 - cosine of the flow between positions; the flow has no gradient.

    A position weighs as much as it is like the mean of the other side, if it is; together they
    weigh their number.
    """
    import torch
    from torch.nn import functional as F

    ours, theirs = F.normalize(ours_BSD, dim=-1), F.normalize(theirs_BTD, dim=-1)
    costs_BST = (1 - ours @ theirs.mT).clamp(min=0)
    with torch.no_grad():
        flow_BST = flow(costs_BST, _weights(ours_BSD, theirs_BTD), _weights(theirs_BTD, ours_BSD))
    return (flow_BST * costs_BST).sum((1, 2)).mean()


def _weights(states_BLD: Tensor, others_BLD: Tensor) -> Tensor:
    """Return the positions' weights (B, L), which sum to 1."""
    from torch.nn import functional as F

    means_BD1 = F.normalize(others_BLD.mean(1), dim=-1)[..., None]
    likeness_BL = (states_BLD @ means_BD1)[..., 0].clamp(min=0) + 1e-6  # never 0 throughout
    return likeness_BL / likeness_BL.sum(1, keepdim=True)


def flow(costs_BST: Tensor, from_BS: Tensor, to_BT: Tensor) -> Tensor:
    """Return the flow (B, S, T) with these sums of least cost, smoothed by its entropy (Sinkhorn).

    from_BS, to_BT: positive, of equal sums.
    """
    log_from_BS1, log_to_B1T = from_BS.log()[..., None], to_BT.log()[:, None]
    prices_B1T = 0 * log_to_B1T  # of costs: they stay what they are as the smoothing falls
    for smoothing in _SMOOTHINGS:
        scores_BST, columns_B1T = -costs_BST / smoothing, prices_B1T / smoothing
        for _ in range(_NUM_ROUNDS):
            rows_BS1 = log_from_BS1 - (scores_BST + columns_B1T).logsumexp(2, keepdim=True)
            columns_B1T = log_to_B1T - (scores_BST + rows_BS1).logsumexp(1, keepdim=True)
        prices_B1T = columns_B1T * smoothing
    return (scores_BST + rows_BS1 + columns_B1T).exp()
