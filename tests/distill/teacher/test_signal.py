import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.task import Batch

BATCH = Batch(
    torch.randint(5, 160, (2, 24)),
    torch.tensor([3, 7, 30, 41]),
    torch.tensor([9, 9, 9, 9]),
    torch.zeros((2, 3)),
)


def test_the_models_logits_frozen_and_without_dropout(tiny: Callable[..., Architecture]) -> None:
    model = MaskedLM(make_model(tiny(dropout=0.5), 0, "teacher"), torch.float32).train()
    signal = ModelSignal(model)
    first_NV = signal(BATCH)
    assert not first_NV.requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(signal(BATCH), first_NV)
    full_NV = model.model(BATCH.ids_BL).logits.flatten(0, 1)
    torch.testing.assert_close(first_NV, full_NV[BATCH.rows_N], rtol=1e-5, atol=1e-6)


def test_released_it_lets_go_of_the_model(tiny: Callable[..., Architecture]) -> None:
    signal = ModelSignal(MaskedLM(make_model(tiny(), 0, "teacher"), torch.float32))
    model = weakref.ref(signal._model)  # type: ignore[arg-type]
    assert model() is not None
    signal.release()
    gc.collect()
    assert model() is None
    with pytest.raises(AssertionError, match="released"):
        signal(BATCH)


def test_a_temperature_of_its_own(tiny: Callable[..., Architecture]) -> None:
    model = MaskedLM(make_model(tiny(), 0, "teacher"), torch.float32)
    torch.testing.assert_close(ModelSignal(model, 2.5)(BATCH) * 2.5, ModelSignal(model)(BATCH))
