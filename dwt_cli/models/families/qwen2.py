"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Llama's layers, with biases of queries, keys and values."""

from dataclasses import replace

from transformers import Qwen2Config

from dwt_cli.models.families import llama

ANATOMY = replace(
    llama.ANATOMY,
    same=(*llama.SAME[:-1], *llama.WINDOW),
    configure=lambda options: Qwen2Config(**llama.decoder_settings(options)),
)
