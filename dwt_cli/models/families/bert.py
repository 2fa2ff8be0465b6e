"""BERT (arXiv 1810.04805)."""

from typing import Any

from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from dwt_cli.models.families.parts import PAD_ID, Anatomy
from dwt_cli.models.options import Architecture

PROJECTIONS = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))


def _make(options: Architecture) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=options.vocab_size,
            hidden_size=options.width,
            num_hidden_layers=options.num_layers,
            num_attention_heads=options.num_heads,
            intermediate_size=options.mlp_width,
            max_position_embeddings=max(512, options.max_length),
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
            pad_token_id=PAD_ID,
        )
    )


def after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    """Return the states that leave a layer of BERT's kind."""
    attended_BTD = layer.attention.output(mixed_BTD, entered_BTD)
    left_BTD: Tensor = layer.output(layer.intermediate(attended_BTD), attended_BTD)
    return left_BTD


_AXES = {
    "bert.embeddings.word_embeddings.weight": ". D",
    "bert.embeddings.position_embeddings.weight": ". D",
    "bert.embeddings.token_type_embeddings.weight": ". D",
    "bert.embeddings.LayerNorm.weight": "D",
    "bert.embeddings.LayerNorm.bias": "D",
    "attention.self.query.weight": "H d",
    "attention.self.query.bias": "H",
    "attention.self.key.weight": "H d",
    "attention.self.key.bias": "H",
    "attention.self.value.weight": "H d",
    "attention.self.value.bias": "H",
    "attention.output.dense.weight": "D h",
    "attention.output.dense.bias": "D",
    "attention.output.LayerNorm.weight": "D",
    "attention.output.LayerNorm.bias": "D",
    "intermediate.dense.weight": "M d",
    "intermediate.dense.bias": "M",
    "output.dense.weight": "D m",
    "output.dense.bias": "D",
    "output.LayerNorm.weight": "D",
    "output.LayerNorm.bias": "D",
    "cls.predictions.transform.dense.weight": "D d",
    "cls.predictions.transform.dense.bias": "D",
    "cls.predictions.transform.LayerNorm.weight": "d",
    "cls.predictions.transform.LayerNorm.bias": "d",
    "cls.predictions.decoder.weight": ". D",
    "cls.predictions.decoder.bias": ".",
    "cls.predictions.bias": ".",
}
ANATOMY = Anatomy(
    "bert",
    "bert.encoder.layer",
    lambda model, hidden_ND: model.cls(hidden_ND),
    output="cls.predictions.decoder",
    projections=PROJECTIONS,
    embeddings="bert.embeddings",
    attention="attention.self",
    attention_dropout="attention_probs_dropout_prob",
    after_mixing=after_mixing,
    same=("hidden_act", "tie_word_embeddings"),
    axes=_AXES,
    make=_make,
)
