"""Hidden states of chosen layer pairs: the student's, led through a projection, and the teacher's.

Losses are means over positions. Legend: B blocks, L positions, S and T widths of student, teacher.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwt_cli.distill.objective.options import Distance, Hidden
from dwt_cli.models.features import Features


class HiddenStates(nn.Module):
    """Mean distance over the pairs, each with a projection of its own (S -> T, no bias).

    The projections are trained beside the student and are no part of it (design: ``aux``). They
    begin as the identity as far as it goes. Cosine over one pair, an early layer of the student
    and the teacher's last, is LET; mse with a projection is FitNets' hint (arXiv 1412.6550, eq. 3).
    """

    def __init__(self, options: Hidden, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self._options = options
        self.student = Features(hidden_layers=frozenset(pair[0] for pair in options.pairs))
        self.teacher = Features(hidden_layers=frozenset(pair[1] for pair in options.pairs))
        self.projections = nn.ModuleList()
        for _ in options.pairs:
            projection = nn.Linear(student_width, teacher_width, bias=False)
            with torch.no_grad():
                nn.init.eye_(projection.weight)
            self.projections.append(projection)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        losses = []
        for (ours, theirs), projection in zip(self._options.pairs, self.projections, strict=True):
            student_BLT = projection(student.hidden[ours].float())
            losses.append(self._distance(student_BLT, teacher.hidden[theirs].float()))
        return torch.stack(losses).mean()

    def _distance(self, student_BLT: Tensor, teacher_BLT: Tensor) -> Tensor:
        if self._options.distance is Distance.cosine:
            return 1 - F.cosine_similarity(student_BLT, teacher_BLT, dim=-1).mean()
        return F.mse_loss(student_BLT, teacher_BLT)
