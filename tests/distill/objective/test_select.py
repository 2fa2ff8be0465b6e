"""Selections that are fitted to a teacher first; test_fused.py has the formula of each."""

import pytest
import torch

from dwt_cli.distill.objective.base import Distribution, Rows
from dwt_cli.distill.objective.select import SELECTIONS, Gate, Select, Uncertain

N, V = 40, 9


def selected(select: Select, scores_CV: torch.Tensor) -> list[bool]:
    teacher = Distribution.of(scores_CV)
    rows = Rows(teacher, teacher, torch.zeros(len(scores_CV), 1, dtype=torch.long), 0.0)
    counts_C1 = select.select(rows)
    assert counts_C1 is not None
    return counts_C1[:, 0].tolist()


@pytest.mark.parametrize("share", [0.15, 0.5, 0.99, 0.01])
def test_the_surest_rows_are_left_out_whatever_chunk_they_are_in(share: float) -> None:
    torch.manual_seed(0)
    scores_NV = torch.randn(N, V) * torch.linspace(0.1, 9, N)[torch.randperm(N), None]
    scores_NV[3, 1:] = -torch.inf  # certain: 0 log 0 is 0
    entropies = [
        sum(-p * torch.log(torch.tensor(p)).item() for p in row if p)
        for row in scores_NV.double().softmax(-1).tolist()
    ]
    surest = sorted(range(N), key=entropies.__getitem__)[: int(share * N)]
    fitted = Uncertain(share=share).fitted(lambda: Distribution.of(scores_NV).entropy()[:, 0])
    whole = selected(fitted, scores_NV)
    assert [number for number in range(N) if not whole[number]] == sorted(surest)
    for size in (1, 7):
        parts = scores_NV.split(size)
        assert [counts for part in parts for counts in selected(fitted, part)] == whole


def test_what_is_set_or_needs_nothing_asks_no_teacher() -> None:
    def never() -> torch.Tensor:
        raise AssertionError("it is asked for nothing")

    for select in (Uncertain(entropy=1.0), Gate()):
        assert select.fitted(never) is select
    assert SELECTIONS["uncertain"] is Uncertain
