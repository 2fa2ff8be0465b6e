"""DistilBERT (arXiv 1910.01108)."""

from typing import Any

from torch import Tensor

from dwt_cli.models.families.parts import Anatomy, LastLayer


def _after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = layer.sa_layer_norm(layer.attention.out_lin(mixed_BTD) + entered_BTD)
    left_BTD: Tensor = layer.output_layer_norm(layer.ffn(attended_BTD) + attended_BTD)
    return left_BTD


ANATOMY = Anatomy(
    "distilbert.transformer.layer",
    transform=lambda model, hidden_ND: model.vocab_layer_norm(
        model.activation(model.vocab_transform(hidden_ND))
    ),
    output="vocab_projector",
    projections=tuple(f"attention.{name}_lin" for name in "qkv"),
    embeddings="distilbert.embeddings",
    last_layer=LastLayer("attention", "attention_dropout", _after_mixing),
    same=("activation", "tie_word_embeddings"),
)
