"""Where a family of masked language models keeps its parts.

Legend: N target rows, V vocabulary, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from dwt_cli.errors import UserError


@dataclass(frozen=True)
class Anatomy:
    """The parts of a ``*ForMaskedLM`` by their names in its state dict.

    backbone: the attribute that returns the hidden states.
    layers: the prefix of the numbered layers.
    head: hidden states of the target rows (N, D) -> logits (N, V).
    output: the last matrix of the head, from width to vocabulary.
    projections: in a layer, the linear maps to queries, keys and values; one if they are fused.
    optional: what a layer may lack in one place and have in another, per tensor suffix.
    rotary: in a layer, the attention that is handed rotary angles.
    """

    backbone: str
    layers: str
    head: Callable[[Any, Tensor], Tensor]
    output: str
    projections: tuple[str, ...]
    optional: tuple[str, ...] = ()
    rotary: str | None = None


def _modernbert_head(model: Any, hidden_ND: Tensor) -> Tensor:
    logits_NV: Tensor = model.decoder(model.head(hidden_ND))
    return logits_NV


def _distilbert_head(model: Any, hidden_ND: Tensor) -> Tensor:
    hidden_ND = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_ND)))
    logits_NV: Tensor = model.vocab_projector(hidden_ND)
    return logits_NV


_BERT_PROJECTIONS = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))

ANATOMIES = {
    "bert": Anatomy(
        "bert",
        "bert.encoder.layer",
        lambda model, hidden_ND: model.cls(hidden_ND),
        output="cls.predictions.decoder",
        projections=_BERT_PROJECTIONS,
    ),
    "roberta": Anatomy(
        "roberta",
        "roberta.encoder.layer",
        lambda model, hidden_ND: model.lm_head(hidden_ND),
        output="lm_head.decoder",
        projections=_BERT_PROJECTIONS,
    ),
    "distilbert": Anatomy(
        "distilbert",
        "distilbert.transformer.layer",
        _distilbert_head,
        output="vocab_projector",
        projections=tuple(f"attention.{name}_lin" for name in "qkv"),
    ),
    "modernbert": Anatomy(
        "model",
        "model.layers",
        _modernbert_head,
        output="decoder",
        projections=("attn.Wqkv",),
        # its first layer reads the normalised embeddings as they are
        optional=("attn_norm.weight",),
        rotary="attn",
    ),
}


def is_known(config: PreTrainedConfig) -> bool:
    """Whether a family's parts are known here; of any other only the logits are."""
    return config.model_type in ANATOMIES


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a transformers model; `UserError` for a family that is not known here."""
    model_type = str(getattr(model.config, "model_type", "?"))
    if model_type not in ANATOMIES:
        raise UserError(
            f"model type {model_type!r} is not known here: use one of "
            f"{', '.join(sorted(ANATOMIES))}"
        )
    return ANATOMIES[model_type]


def num_positions(config: PreTrainedConfig) -> int:
    """The longest block that a model of this configuration, of a known family, reads."""
    positions: int = config.max_position_embeddings
    # roberta counts its positions from the one after that of padding
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions
