"""The closed form against torch's own counter."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from dwt_cli.models.features import NO_FEATURES, ROWS, FeatureSpec
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops
from dwt_cli.models.making import make_classifier, make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import Classifier, LanguageModel, Want
from tests.conftest import outlined

B, L, TARGETS = 3, 48, 7


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("num_layers", [1, 4])
@pytest.mark.parametrize(
    "features",
    [
        NO_FEATURES,
        frozenset({("hidden", -1)}),
        frozenset({("hidden", 0), ROWS}),
    ],
)
def test_forward_and_backward(
    tiny: Callable[..., Architecture], family: str, num_layers: int, features: FeatureSpec
) -> None:
    model = make_model(
        tiny(family, num_layers=num_layers, width=64, num_heads=4, mlp_width=96, vocab_size=500),
        0,
        "student",
    )
    ids_BL = torch.zeros(B, L, dtype=torch.long)
    rows_N = L * torch.arange(B).repeat_interleave(TARGETS)
    wrapped = LanguageModel(model, torch.float32)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits_NV = wrapped(ids_BL, rows_N, Want(features=features)).logits_NV
        with FlopCounterMode(display=False) as backward:
            logits_NV.sum().backward()
    expected = forward_flops(model, B, L, TARGETS, features)
    assert forward.get_total_flops() == pytest.approx(expected, rel=0.02)
    assert backward.get_total_flops() == pytest.approx(
        (FORWARD_AND_BACKWARD - 1) * expected, rel=0.02
    )


@torch.no_grad()
def test_of_an_unknown_family_the_head_runs_everywhere(
    of_family: Callable[[str], PreTrainedModel],
) -> None:
    model = of_family("electra")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        LanguageModel(model, torch.float32)(
            torch.zeros(B, L, dtype=torch.long), torch.zeros(B * TARGETS, dtype=torch.long)
        )
    assert counter.get_total_flops() == pytest.approx(forward_flops(model, B, L, TARGETS), rel=0.02)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@torch.no_grad()
def test_a_classifier_has_one_row_of_each_text(
    of_family: Callable[[str], PreTrainedModel], family: str
) -> None:
    wrapped = Classifier(make_classifier(of_family(family), 3, seed=0), torch.float32)
    ids_BL = torch.full((B, L), 5)
    named = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        wrapped(named)
    expected = forward_flops(wrapped.model, B, L, 1, frozenset({("hidden", -1)}))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_written_out_for_bert(tiny: Callable[..., Architecture]) -> None:
    D, F, V, layers = 16, 24, 160, 2
    keys_and_values = 2 * D * D
    asking = 2 * D * D + 2 * D * F + 2 * L * D  # with q k and the weighted sum of v
    head = D * D + D * V
    in_layers = L * (layers * keys_and_values + (layers - 1) * asking) + TARGETS * asking
    products = B * (in_layers + TARGETS * head)
    assert forward_flops(outlined(tiny()), B, L, TARGETS) == 2 * products
