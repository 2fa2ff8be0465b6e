"""BERT (arXiv 1810.04805)."""

from typing import Any

from torch import Tensor
from transformers import BertConfig

from dwt_cli.models.families.parts import PAD_ID, Anatomy, LastLayer, settings

_PROJECTIONS = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))


def _after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = layer.attention.output(mixed_BTD, entered_BTD)
    left_BTD: Tensor = layer.output(layer.intermediate(attended_BTD), attended_BTD)
    return left_BTD


ANATOMY = Anatomy(
    "bert.encoder.layer",
    transform=lambda model, hidden_ND: model.cls.predictions.transform(hidden_ND),
    output="cls.predictions.decoder",
    projections=_PROJECTIONS,
    embeddings="bert.embeddings",
    last_layer=LastLayer("attention.self", "attention_probs_dropout_prob", _after_mixing),
    same=("hidden_act", "tie_word_embeddings"),
    axes={
        "bert.embeddings.word_embeddings": ". D",
        "bert.embeddings.position_embeddings": ". D",
        "bert.embeddings.token_type_embeddings": ". D",
        "bert.embeddings.LayerNorm": "D",
        **dict.fromkeys(_PROJECTIONS, "H d"),
        "attention.output.dense": "D h",
        "attention.output.LayerNorm": "D",
        "intermediate.dense": "M d",
        "output.dense": "D m",
        "output.LayerNorm": "D",
        "cls.predictions.transform.dense": "D d",
        "cls.predictions.transform.LayerNorm": "d",
        "cls.predictions.decoder": ". D",
        "cls.predictions": ".",
    },
    configure=lambda options: BertConfig(
        **settings(options, ("hidden_dropout_prob", "attention_probs_dropout_prob")),
        pad_token_id=PAD_ID,
    ),
)
