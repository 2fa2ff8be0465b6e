"""Eq. 3 with a teacher that reads windows, against one that is asked row by row.

Legend: N target rows, V vocabulary.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    ModelSignal,
    Request,
    TeacherSignal,
)
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.windows import Windows
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.training.protocols import Moment

LENGTH, WINDOW = 16, 6


class RowByRow(TeacherSignal):
    """A teacher that is called for each row with the tokens that it shall see."""

    def __init__(self, model: LanguageModel) -> None:
        self.asked = model

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        found = []
        for row in batch.rows_N.tolist():
            ids_L, position = batch.ids_BL[row // LENGTH], row % LENGTH
            # a half of 5 is 2, so that windows of 5 begin every 2nd position from 1 on
            start = next(s for s in (1, 3, 5, 7, 9, 11) if position < s + WINDOW - 1)
            seen = [0, *range(start, start + WINDOW - 1)][: position - start + 2 if position else 1]
            with torch.no_grad():
                found.append(self.asked(ids_L[None, seen], torch.tensor([len(seen) - 1])).logits_NV)
        return Answer(DenseLogits(torch.cat(found)))


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_loss_and_gradient_are_those_of_a_teacher_asked_row_by_row(
    tiny: Callable[..., Architecture], family: str
) -> None:
    teacher = make_model(tiny(family, max_length=WINDOW), 0, "teacher").eval()
    student = LanguageModel(make_model(tiny("qwen3", max_length=LENGTH), 0, "it"), torch.float32)
    ids_BL = torch.randint(5, 160, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = NextToken().batch(ids_BL.numpy(), 0, [Place(n, 0, n) for n in range(3)])
    windows = Windows(WINDOW, 0.5, True)
    assert windows.starts(LENGTH) == [1, 3, 5, 7, 9, 11]
    signals = [
        ModelSignal(windows.around(teacher, torch.float32)),
        RowByRow(LanguageModel(teacher, torch.float32)),
    ]
    totals, gradients = [], []
    for signal in signals:
        settings = Distillation(signal, Constant(0.3, 0.7), {"logits": ForwardKL()})
        student.zero_grad()
        total: Tensor = DistillationLoss(settings)(student, batch, Moment(0.0)).total
        total.backward()
        totals.append(total.detach())
        gradients.append([each.grad.clone() for each in student.parameters()])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-5, atol=0)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
