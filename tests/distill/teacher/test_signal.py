import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from dwt_cli.distill.teacher.signal import ModelSignal, Request
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.task import Batch

BATCH = Batch(
    torch.randint(5, 160, (2, 24)),
    torch.tensor([3, 7, 30, 41]),
    torch.tensor([9, 9, 9, 9]),
    torch.zeros((2, 3)),
)


def test_the_models_logits_frozen_and_without_dropout(tiny: Callable[..., Architecture]) -> None:
    model = LanguageModel(make_model(tiny(dropout=0.5), 0, "teacher"), torch.float32).train()
    signal = ModelSignal(model)
    first_NV = signal(BATCH).targets.dense()
    assert not first_NV.requires_grad
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(signal(BATCH).targets.dense(), first_NV)
    full_NV = model.model(BATCH.ids_BL).logits.flatten(0, 1)
    torch.testing.assert_close(first_NV, full_NV[BATCH.rows_N], rtol=1e-5, atol=1e-6)


def test_released_it_lets_go_of_the_model(tiny: Callable[..., Architecture]) -> None:
    wrapped = LanguageModel(make_model(tiny(), 0, "teacher"), torch.float32)
    signal, model = ModelSignal(wrapped), weakref.ref(wrapped)
    del wrapped
    assert model() is not None
    signal.release()
    gc.collect()
    assert model() is None
    with pytest.raises(AssertionError, match="released"):
        signal(BATCH)


def test_a_temperature_of_its_own(tiny: Callable[..., Architecture]) -> None:
    model = LanguageModel(make_model(tiny(), 0, "teacher"), torch.float32)
    warm_NV, plain_NV = (
        ModelSignal(model, temperature)(BATCH).targets.dense() for temperature in (2.5, 1.0)
    )
    torch.testing.assert_close(warm_NV * 2.5, plain_NV)


def test_features_come_with_the_targets_where_they_are_requested(
    tiny: Callable[..., Architecture],
) -> None:
    signal = ModelSignal(LanguageModel(make_model(tiny(), 0, "teacher"), torch.float32))
    assert signal(BATCH).features is None
    request = Request(features=frozenset({("hidden", 0)}))
    answer = signal(BATCH, request)
    assert answer.features is not None
    assert answer.features.hidden[0].shape == (2, 24, 16)
    torch.testing.assert_close(answer.targets.dense(), signal(BATCH).targets.dense())
