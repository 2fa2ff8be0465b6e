"""The learned maps from the student's hidden states to the teacher's.

Legend: B blocks, L positions, S and T widths of student, teacher.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Projections(nn.Module):
    """Linear maps S -> T without a bias, which begin as the identity as far as it goes."""

    def __init__(self, num_maps: int, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList()
        for _ in range(num_maps):
            projection = nn.Linear(student_width, teacher_width, bias=False)
            with torch.no_grad():
                nn.init.eye_(projection.weight)
            self.projections.append(projection)

    def forward(self, states_BLS: Sequence[Tensor]) -> list[Tensor]:
        """Return the states (B, L, T), each through its own map."""
        return [
            project(each_BLS)
            for project, each_BLS in zip(self.projections, states_BLS, strict=True)
        ]
