"""A student and a teacher in fp64 whose weights, norms and biases are all different."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture

Pair = Callable[..., tuple[PreTrainedModel, PreTrainedModel]]


@pytest.fixture(scope="session")
def pair(tiny: Callable[..., Architecture]) -> Pair:
    """``pair(family, num_teacher, **changes)``: a student of 6 layers, with the changes."""

    def make(
        family: str, num_teacher: int, num_student: int = 6, **changes: Any
    ) -> tuple[PreTrainedModel, PreTrainedModel]:
        student = make_model(tiny(family, num_layers=num_student, **changes), 0, "student")
        teacher = make_model(tiny(family, num_layers=num_teacher), 0, "teacher")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for parameter in teacher.parameters():  # attention is sharp, norms are not all one
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
        return student.double().eval(), teacher.double().eval()

    return make


WIDER = {"width": 32, "num_heads": 4, "mlp_width": 60}
"""Twice the width of `tiny`; its MLP, 24 wide, does not divide this one."""


def logits(model: PreTrainedModel) -> torch.Tensor:
    """On random tokens, (2, 20, V)."""
    ids_BL = torch.randint(5, 160, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model(ids_BL).logits
    return found
