"""The learned maps from the student's hidden states to the teacher's.

Legend: B blocks, L positions, S and T widths of student, teacher.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class Projections(nn.Module):
    """Linear maps S -> T without a bias, which begin as the identity as far as it goes."""

    def __init__(self, num_maps: int, student_width: int, teacher_width: int) -> None:
        super().__init__()
        sizes = (student_width, teacher_width)
        maps = [nn.Linear(*sizes, bias=False) for _ in range(num_maps)]
        for each in maps:
            nn.init.eye_(each.weight)
        self.projections = nn.ModuleList(maps)

    def forward(self, states_BLS: Sequence[Tensor]) -> list[Tensor]:
        """Return the states (B, L, T), each through its own map."""
        pairs = zip(self.projections, states_BLS, strict=True)
        return [project(each_BLS) for project, each_BLS in pairs]
