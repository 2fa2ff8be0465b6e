"""The target rows alone against the plain forward pass, in fp64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.wrapper import LanguageModel, Want
from tests.models.conftest import ENCODERS

FAMILIES = [*ENCODERS, "modernbert-sliding", "modernbert-wide-window"]
B, L, T = 3, 32, 4
IDS_BL = torch.randint(5, 160, (B, L), generator=torch.Generator().manual_seed(0))
ROWS_N = torch.tensor([0, 7, 30, 31, 32, 40, 41, 50, 65, 66, 80, 95])
OfFamily = Callable[[str], PreTrainedModel]


def exact(of_family: OfFamily, family: str, attention: str) -> PreTrainedModel:
    model = of_family(family).double()
    if family.endswith("sliding"):  # then the last layer has a mask
        model.config.layer_types[-1] = "sliding_attention"
    model.set_attn_implementation(attention)
    return model


def plain(model: PreTrainedModel, ids_BL: Tensor, rows_N: Tensor) -> Tensor:
    """The logits (N, V) of transformers' own forward pass."""
    logits_BLV: Tensor = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits
    return logits_BLV.flatten(0, 1)[rows_N]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients(of_family: OfFamily, family: str, attention: str) -> None:
    seen = []
    for through_wrapper in (False, True):
        model = exact(of_family, family, attention)
        if through_wrapper:
            logits_NV = LanguageModel(model, torch.float32).eval()(IDS_BL, ROWS_N).logits_NV
        else:
            logits_NV = plain(model, IDS_BL, ROWS_N)
        logits_NV.logsumexp(-1).sum().backward()
        seen.append((logits_NV, {name: p.grad for name, p in model.named_parameters()}))
    (expected_NV, expected), (found_NV, found) = seen
    assert expected_NV.std() > 0.1, "differences would show"
    # modernbert's rotary angles are in fp32 on both sides
    torch.testing.assert_close(found_NV, expected_NV, rtol=1e-6, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_the_rows_alone(of_family: OfFamily, family: str) -> None:
    model = of_family(family)
    last = model.get_submodule(anatomy_of(model).layers)[-1]
    shapes = []
    last.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    wrapped = LanguageModel(model, torch.float32)
    wrapped(IDS_BL, ROWS_N)
    wrapped(IDS_BL, ROWS_N, Want(features=frozenset({("hidden", 1)})))
    assert shapes == [(B, T, 16)] * 2
    for layer in (2, -1):  # features of the last layer are those of all positions
        wrapped(IDS_BL, ROWS_N, Want(features=frozenset({("hidden", layer)})))
        wrapped(IDS_BL, ROWS_N, Want(features=frozenset({("heads", layer)})))
    wrapped(IDS_BL, ROWS_N, Want(ragged=True))
    assert shapes[2:] == [(B, L, 16)] * 5


def test_a_copy_has_a_last_layer_of_its_own(of_family: OfFamily) -> None:
    wrapped = LanguageModel(of_family("bert"), torch.float32)
    twin = copy.deepcopy(wrapped)
    with torch.no_grad():
        before_NV = wrapped(IDS_BL, ROWS_N).logits_NV
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(wrapped(IDS_BL, ROWS_N).logits_NV, before_NV)
        assert not twin(IDS_BL, ROWS_N).logits_NV.any()


def test_unequal_numbers_of_rows_are_refused_unless_they_are_announced(of_family: OfFamily) -> None:
    rows_N = ROWS_N.clone()
    rows_N[-1] = 0  # as many rows as before, one of them in another block
    wrapped = LanguageModel(of_family("bert"), torch.float32)
    with pytest.raises(IndexError, match="out of range"):
        wrapped(IDS_BL, rows_N)
    assert wrapped(IDS_BL, rows_N, Want(ragged=True)).logits_NV.shape[0] == len(rows_N)
