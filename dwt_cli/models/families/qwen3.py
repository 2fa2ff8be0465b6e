"""Qwen3 (arXiv 2505.09388): Llama's layers, with queries and keys normalised in each head."""

from dataclasses import replace

from transformers import Qwen3Config

from dwt_cli.models.families import llama

ANATOMY = replace(
    llama.ANATOMY,
    # what attention multiplies, but for the rotation
    projections=("self_attn.q_norm", "self_attn.k_norm", "self_attn.v_proj"),
    same=(*llama.SAME, *llama.WINDOW),
    axes={**llama.AXES, "self_attn.q_norm": ".", "self_attn.k_norm": "."},
    configure=lambda options: Qwen3Config(
        **llama.decoder_settings(options), head_dim=options.width // options.num_heads
    ),
)
