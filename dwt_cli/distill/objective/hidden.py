"""Hidden states of layer pairs: the student's, led through a projection, and the teacher's.

Losses are means over positions. Legend: B blocks, L positions, S and T widths of student, teacher.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwt_cli.distill.objective.feature_losses import FeatureLoss
from dwt_cli.models.features import Features, FeatureSpec


class HiddenStates(FeatureLoss):
    """Mean distance over the pairs, each with a projection of its own (S -> T, no bias).

    pairs: layer of the student, layer of the teacher. cosine: one minus it, else the mean squared
    difference. The projections begin as the identity as far as it goes. Cosine over one pair, an
    early layer of the student and the teacher's last, is LET; the squared difference is FitNets'
    hint (arXiv 1412.6550, eq. 3).
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        cosine: bool,
        student_width: int,
        teacher_width: int,
    ) -> None:
        super().__init__(
            FeatureSpec(hidden_layers=frozenset(pair[0] for pair in pairs)),
            FeatureSpec(hidden_layers=frozenset(pair[1] for pair in pairs)),
        )
        self._pairs, self._cosine = pairs, cosine
        self.projections = nn.ModuleList()
        for _ in pairs:
            projection = nn.Linear(student_width, teacher_width, bias=False)
            with torch.no_grad():
                nn.init.eye_(projection.weight)
            self.projections.append(projection)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        losses = []
        for pair, projection in zip(self._pairs, self.projections, strict=True):
            student_BLT = projection(student.hidden[pair[0]].float())
            losses.append(self._distance(student_BLT, teacher.hidden[pair[1]].float()))
        return torch.stack(losses).mean()

    def _distance(self, student_BLT: Tensor, teacher_BLT: Tensor) -> Tensor:
        if self._cosine:
            return 1 - F.cosine_similarity(student_BLT, teacher_BLT, dim=-1).mean()
        return F.mse_loss(student_BLT, teacher_BLT)
