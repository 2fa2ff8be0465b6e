"""The teacher's seam: who asks for a signal does not know where it comes from.

Legend: N target rows, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor

from dwt_cli.models.features import Features
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.task import Batch


class Signal(Protocol):
    """The teacher's logits (N, V) on the target rows of a batch, in any float type.

    ``features`` is filled with what it asks for, by a signal that comes from one model.
    release: the signal will not be asked for again; give its memory back.
    """

    def __call__(self, batch: Batch, features: Features | None = None) -> Tensor: ...

    def release(self) -> None: ...


class ModelSignal:
    """A frozen model beside the student: in eval mode, without gradients.

    temperature: its logits are divided by it; the objective's own comes on top, on both sides.
    """

    def __init__(self, model: MaskedLM, temperature: float = 1.0) -> None:
        self._model: MaskedLM | None = model.eval().requires_grad_(False)
        self._temperature = temperature

    @torch.no_grad()
    def __call__(self, batch: Batch, features: Features | None = None) -> Tensor:
        assert self._model is not None, "a released teacher is not asked again"
        logits_NV: Tensor = self._model(batch.ids_BL, batch.rows_N, features)
        return logits_NV if self._temperature == 1 else logits_NV / self._temperature

    def release(self) -> None:
        self._model = None
