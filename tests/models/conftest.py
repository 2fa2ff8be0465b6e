"""A tiny model of each family, as transformers makes them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Olmo2ForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
TOKENS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
ENCODERS = ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"]
KINDS: dict[str, Any] = {
    "qwen2": Qwen2ForCausalLM,
    "olmo2": Olmo2ForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "gemma3_text": Gemma3ForCausalLM,
}
SLIDING = ["full_attention", "sliding_attention", "sliding_attention"]


def _make(name: str) -> PreTrainedModel:
    match name:
        case "bert":
            return BertForMaskedLM(BertConfig(**SIZES))
        case "xlm-roberta":
            return XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZES))
        case "roberta":
            return RobertaForMaskedLM(RobertaConfig(**SIZES))
        case "distilbert":
            return DistilBertForMaskedLM(
                DistilBertConfig(
                    vocab_size=160,
                    dim=16,
                    n_layers=3,
                    n_heads=2,
                    hidden_dim=24,
                    max_position_embeddings=64,
                )
            )
        case "llama" | "qwen3":
            kind = {"llama": LlamaForCausalLM, "qwen3": Qwen3ForCausalLM}[name]
            more = {"num_key_value_heads": 1, "attention_bias": True, "head_dim": 8}
            config = kind.config_class(**SIZES | {"pad_token_id": None}, **more)
            config.mlp_bias = name == "llama"
            return kind(config)
        case "qwen2" | "olmo2" | "gemma2" | "gemma3_text":
            kind = KINDS[name]
            more = {"num_key_value_heads": 1, "pad_token_id": None}
            if name.startswith("gemma"):
                more |= {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 40}
                more |= {"final_logit_softcapping": 3.0, "attention_bias": True}
            elif name == "olmo2":
                more["attention_bias"] = True
            return kind(kind.config_class(**SIZES | more))
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=160, n_embd=16, n_layer=3, n_head=2, n_inner=24, n_positions=64
                )
            )
        case "electra":  # a family whose parts are not known
            return ElectraForMaskedLM(ElectraConfig(**SIZES, embedding_size=12))
        case "modernbert":
            return ModernBertForMaskedLM(
                ModernBertConfig(**SIZES, **TOKENS, layer_types=["full_attention"] * 3)
            )
        case "modernbert-sliding":
            return ModernBertForMaskedLM(
                ModernBertConfig(**SIZES, **TOKENS, layer_types=SLIDING, local_attention=8)
            )
        case "modernbert-wide-window":
            return ModernBertForMaskedLM(
                ModernBertConfig(**SIZES, **TOKENS, layer_types=SLIDING, local_attention=64)
            )
    raise AssertionError(name)


@pytest.fixture(scope="session")
def of_family() -> Callable[[str], PreTrainedModel]:
    """A model with weights large enough that attention is sharp, in eval mode."""

    def make(name: str) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _make(name)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(0, 0.3)
        return model.eval()

    return make
