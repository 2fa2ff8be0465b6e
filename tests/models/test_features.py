"""Features of a model's layers, against transformers' own account of it."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.models.anatomy import anatomy_of, num_positions
from dwt_cli.models.features import ROWS, Features, check_layers
from dwt_cli.models.wrapper import LanguageModel, Want
from tests.models.conftest import ENCODERS

DECODERS = ["llama", "qwen3", "gpt2", "olmo2", "gemma3_text"]
FAMILIES = [*ENCODERS, "modernbert-wide-window", *DECODERS]
AFTER_ATTENTION = {
    "bert": "attention.output.dense",
    "roberta": "attention.output.dense",
    "xlm-roberta": "attention.output.dense",
    "distilbert": "attention.out_lin",
    "modernbert": "attn.Wo",
    "llama": "self_attn.o_proj",
    "qwen3": "self_attn.o_proj",
    "gpt2": "attn.c_proj",
    "olmo2": "self_attn.o_proj",
    "gemma3_text": "self_attn.o_proj",
}
OfFamily = Callable[[str], PreTrainedModel]
ROWS_N = torch.tensor([0, 40, 95])


def attention(features: Features, layer: int) -> torch.Tensor:
    """Who attends to whom, (B, H, L, L)."""
    q, k, _ = features.heads[layer]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if features.causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1)


@pytest.fixture
def ids_BL() -> torch.Tensor:
    return torch.randint(4, 160, (3, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_and_keys_give_the_attention_that_the_model_uses(
    family: str, of_family: OfFamily, ids_BL: torch.Tensor
) -> None:
    model = of_family(family)
    model.set_attn_implementation("eager")
    want = Want(features=frozenset({("heads", 0), ("heads", -1)}))
    features = LanguageModel(model, torch.float32)(ids_BL, ROWS_N, want).features
    attentions = model(ids_BL, output_attentions=True).attentions
    for layer in (0, -1):
        probabilities = attention(features, layer)
        v = features.heads[layer].values_BHLE
        torch.testing.assert_close(probabilities, attentions[layer])
        assert v.shape == (3, 2, 32, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_lead_to_what_attention_passes_on(
    family: str, of_family: OfFamily, ids_BL: torch.Tensor
) -> None:
    model = of_family(family)
    layer = model.get_submodule(anatomy_of(model).layers)[1]
    seen = []
    layer.get_submodule(AFTER_ATTENTION[model.config.model_type]).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    want = Want(features=frozenset({("heads", 1)}))
    features = LanguageModel(model, torch.float32)(ids_BL, ROWS_N, want).features
    context = attention(features, 1) @ features.heads[1].values_BHLE
    torch.testing.assert_close(context.transpose(1, 2).flatten(2), seen[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_the_layers(
    family: str, of_family: OfFamily, ids_BL: torch.Tensor
) -> None:
    model = of_family(family)
    want = Want(features=frozenset({("hidden", 0), ("hidden", 1), ROWS}))
    wrapped = LanguageModel(model, torch.float32)
    features = wrapped(ids_BL, ROWS_N, want).features
    last_ND = wrapped.hidden(ids_BL).flatten(0, 1)[ROWS_N]
    torch.testing.assert_close(features.rows_ND, last_ND, rtol=1e-5, atol=1e-5)
    states = model(ids_BL, output_hidden_states=True).hidden_states  # the embeddings come first
    torch.testing.assert_close(features.hidden[0], states[1])
    torch.testing.assert_close(features.hidden[1], states[2])


def test_no_hook_stays_behind(of_family: OfFamily, ids_BL: torch.Tensor) -> None:
    model = of_family("modernbert")
    wrapped = LanguageModel(model, torch.float32)
    want = Want(features=frozenset({("hidden", 0), ("heads", 1)}))
    features = wrapped(ids_BL, ROWS_N, want).features
    assert features.hidden.keys() == {0}
    assert features.heads.keys() == {1}
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_layer_that_is_not_there(of_family: OfFamily) -> None:
    config = of_family("bert").config
    check_layers(config, frozenset({("hidden", -3), ("hidden", 2)}), "objective.hidden.pairs")
    with pytest.raises(UserError, match=r"objective\.hidden\.pairs: layer 3 of a model with 3"):
        check_layers(config, frozenset({("hidden", 3)}), "objective.hidden.pairs")


def test_how_much_an_unknown_family_reads_is_not_known(of_family: OfFamily) -> None:
    with pytest.raises(UserError, match=r"model=.*: how much a electra reads is not known"):
        num_positions(of_family("electra").config)


def test_an_unknown_family_has_no_features(of_family: OfFamily) -> None:
    with pytest.raises(UserError, match=r"objective\.hidden: the layers of a electra"):
        check_layers(of_family("electra").config, frozenset({("hidden", 0)}), "objective.hidden")
