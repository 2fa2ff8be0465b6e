"""Llama (arXiv 2302.13971), and the families that share its layers: Qwen2, Qwen3, OLMo2."""

from dataclasses import replace
from typing import Any

from transformers import LlamaConfig, Olmo2Config, Qwen2Config, Qwen3Config

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


AXES = {
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
_SAME = ("hidden_act", "tie_word_embeddings", "rms_norm_eps", "rope_parameters")
_WINDOW = ("use_sliding_window", "sliding_window")
LLAMA = Anatomy(
    "model.layers",
    projections=tuple(f"self_attn.{name}_proj" for name in "qkv"),
    embeddings="model.embed_tokens",
    pre_norm=True,
    same=(*_SAME, "attention_bias", "mlp_bias"),
    axes=AXES,
    predicts=Head.causal,
    call={"use_cache": False},
    configure=lambda options: LlamaConfig(**decoder_settings(options)),
)
# arXiv 2407.10671, and Qwen2.5: queries, keys and values have biases
QWEN2 = replace(
    LLAMA,
    same=(*_SAME, *_WINDOW),
    configure=lambda options: Qwen2Config(**decoder_settings(options)),
)
NORMED = ("self_attn.q_norm", "self_attn.k_norm", "self_attn.v_proj")
"""What attention multiplies where queries and keys are normalised, but for the rotation."""
# arXiv 2505.09388: in each head
QWEN3 = replace(
    LLAMA,
    projections=NORMED,
    same=(*_SAME, "attention_bias", *_WINDOW),
    axes={**AXES, "self_attn.q_norm": ".", "self_attn.k_norm": "."},
    configure=lambda options: Qwen3Config(
        **decoder_settings(options), head_dim=options.width // options.num_heads
    ),
)
OUTPUT_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_NORMS = {"self_attn.q_norm": "H", "self_attn.k_norm": "K", **dict.fromkeys(OUTPUT_NORMS, "D")}
# arXiv 2501.00656: over all heads; and norms of what a sublayer adds, none of what it reads
OLMO2 = replace(
    LLAMA,
    projections=NORMED,
    output_norms=OUTPUT_NORMS,
    same=(*_SAME, "attention_bias"),
    axes={name: axes for name, axes in AXES.items() if name != "input_layernorm"} | _NORMS,
    configure=lambda options: Olmo2Config(**decoder_settings(options)),
)
