"""OLMo2 (arXiv 2501.00656): norms of what a sublayer adds, and of queries and keys of all heads."""

from dataclasses import replace

from transformers import Olmo2Config

from dwt_cli.models.families import llama

_OUTPUT_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_NORMS = {"self_attn.q_norm": "H", "self_attn.k_norm": "K", **dict.fromkeys(_OUTPUT_NORMS, "D")}
ANATOMY = replace(
    llama.ANATOMY,
    # what attention multiplies, but for the rotation
    projections=("self_attn.q_norm", "self_attn.k_norm", "self_attn.v_proj"),
    output_norms=_OUTPUT_NORMS,
    same=llama.SAME,
    axes={name: axes for name, axes in llama.AXES.items() if name != "input_layernorm"} | _NORMS,
    configure=lambda options: Olmo2Config(**llama.decoder_settings(options)),
)
