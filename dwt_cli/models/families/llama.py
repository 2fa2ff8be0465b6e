"""Llama (arXiv 2302.13971), and what Qwen3 shares with it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import LlamaConfig

from dwt_cli.models.families.parts import MARK_ID, Anatomy, settings
from dwt_cli.models.options import Architecture, Head


def decoder_settings(options: Architecture) -> dict[str, Any]:
    """Return a decoder's settings, by the names that they have in Llama's configuration."""
    return {
        **settings(options, ("attention_dropout",)),
        "num_key_value_heads": options.num_kv_heads or options.num_heads,
        "max_position_embeddings": options.max_length,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": MARK_ID,
        "eos_token_id": MARK_ID,
    }


def head(model: Any, hidden_ND: Tensor) -> Tensor:
    """Return the logits of a model whose head is one matrix."""
    logits_NV: Tensor = model.lm_head(hidden_ND)
    return logits_NV


AXES: Mapping[str, str] = {
    "model.embed_tokens": ". D",
    "input_layernorm": "D",
    "self_attn.q_proj": "H d",
    "self_attn.k_proj": "K d",
    "self_attn.v_proj": "K d",
    "self_attn.o_proj": "D h",
    "post_attention_layernorm": "D",
    "mlp.gate_proj": "M d",
    "mlp.up_proj": "M d",
    "mlp.down_proj": "D m",
    "model.norm": "d",
    "lm_head": ". D",
}
SAME = (
    *("hidden_act", "tie_word_embeddings", "rms_norm_eps", "rope_parameters"),
    "attention_bias",
)
WINDOW = ("use_sliding_window", "sliding_window")
"""Qwen's."""
ANATOMY = Anatomy(
    "model",
    "model.layers",
    head,
    output="lm_head",
    projections=tuple(f"self_attn.{name}_proj" for name in "qkv"),
    embeddings="model.embed_tokens",
    pre_norm=True,
    same=(*SAME, "mlp_bias"),
    axes=AXES,
    predicts=Head.causal,
    call={"use_cache": False},
    configure=lambda options: LlamaConfig(**decoder_settings(options)),
)
