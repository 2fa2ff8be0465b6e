"""Gemma 2 (arXiv 2408.00118) and the text part of Gemma 3 (arXiv 2503.19786).

Norms around each sublayer, whose gain is 1 more than what is stored; embeddings that are multiplied
by the root of the width; logits, of attention too, that are capped: c * tanh(logits / c).
"""

from dataclasses import replace
from typing import Any

from transformers import Gemma2Config, Gemma3TextConfig, PreTrainedConfig

from dwt_cli.models.families import llama
from dwt_cli.models.options import Architecture


def _settings(options: Architecture) -> dict[str, Any]:
    return {
        **llama.decoder_settings(options),
        **dict.fromkeys(("head_dim", "query_pre_attn_scalar"), options.width // options.num_heads),
        # layers stay interchangeable for remapping
        "layer_types": ["full_attention"] * options.num_layers,
    }


def _stored(module: str, config: PreTrainedConfig) -> tuple[float, float]:
    """Return the factor and the summand of a module's weights.

    Embeddings count as they are added to the stream; the last norm makes up for that in the head.
    """
    root: float = config.hidden_size**0.5
    if module in ("model.embed_tokens", "lm_head"):
        return root, 0.0
    return (1 / root if module == "model.norm" else 1.0), float(module.endswith("norm"))


GEMMA2 = replace(
    llama.LLAMA,
    cap=lambda config: config.final_logit_softcapping,
    output_norms=llama.OUTPUT_NORMS,
    stored=_stored,
    same=(
        *("hidden_activation", "tie_word_embeddings", "rms_norm_eps", "rope_parameters"),
        *("attention_bias", "query_pre_attn_scalar", "sliding_window"),
        *("final_logit_softcapping", "attn_logit_softcapping"),
    ),
    axes={**llama.AXES, "pre_feedforward_layernorm": "D", "post_feedforward_layernorm": "D"},
    configure=lambda options: Gemma2Config(**_settings(options)),
)
GEMMA3 = replace(
    GEMMA2,
    projections=llama.NORMED,
    heads_first=True,
    axes={**GEMMA2.axes, "self_attn.q_norm": ".", "self_attn.k_norm": "."},
    configure=lambda options: Gemma3TextConfig(**_settings(options)),
)
