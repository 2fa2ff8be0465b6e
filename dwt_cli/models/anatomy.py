"""Where a family of masked language models keeps its parts.

Legend: N target rows (B blocks of T), V vocabulary, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from dwt_cli.base.errors import UserError


@dataclass(frozen=True)
class Anatomy:
    """The parts of a ``*ForMaskedLM`` by their names in its state dict.

    backbone: the attribute that returns the hidden states.
    layers: the prefix of the numbered layers.
    head: hidden states of the target rows (N, D) -> logits (N, V).
    output: the last matrix of the head, from width to vocabulary.
    projections: in a layer, the linear maps to queries, keys and values; one if they are fused.
    attention: in a layer, the module that mixes positions.
    attention_dropout: the setting with its dropout.
    after_mixing: a layer, what attention has mixed (B, T, D) and the states that entered the layer
        (B, T, D) -> the states that leave it.
    norm: in a layer, the norm before attention.
    rotary: in a layer, the attention that is handed rotary angles.
    embeddings: the prefix of what comes before the layers.
    pre_norm: a layer adds to a residual stream that no norm interrupts.
    optional: what a layer may lack, and the tensor outside that did its work there.
    same: settings without a tensor that give the weights their meaning.
    axes: what the axes of each tensor are, for remapping; inside a layer by the name there.
    """

    backbone: str
    layers: str
    head: Callable[[Any, Tensor], Tensor]
    output: str
    projections: tuple[str, ...]
    embeddings: str
    attention: str
    attention_dropout: str
    after_mixing: Callable[[Any, Tensor, Tensor], Tensor]
    norm: str | None = None
    pre_norm: bool = False
    optional: Mapping[str, str] = field(default_factory=dict)
    rotary: str | None = None
    same: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, name: str) -> tuple[int | None, str]:
        """A tensor's layer and its name there; outside the layers None and the whole name."""
        if not name.startswith(f"{self.layers}."):
            return None, name
        number, _, inside = name.removeprefix(f"{self.layers}.").partition(".")
        return int(number), inside


def _modernbert_head(model: Any, hidden_ND: Tensor) -> Tensor:
    logits_NV: Tensor = model.decoder(model.head(hidden_ND))
    return logits_NV


def _distilbert_head(model: Any, hidden_ND: Tensor) -> Tensor:
    hidden_ND = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden_ND)))
    logits_NV: Tensor = model.vocab_projector(hidden_ND)
    return logits_NV


def _bert_after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = layer.attention.output(mixed_BTD, entered_BTD)
    left_BTD: Tensor = layer.output(layer.intermediate(attended_BTD), attended_BTD)
    return left_BTD


def _distilbert_after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = layer.sa_layer_norm(layer.attention.out_lin(mixed_BTD) + entered_BTD)
    left_BTD: Tensor = layer.output_layer_norm(layer.ffn(attended_BTD) + attended_BTD)
    return left_BTD


def _modernbert_after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = entered_BTD + layer.attn.out_drop(layer.attn.Wo(mixed_BTD))
    left_BTD: Tensor = attended_BTD + layer.mlp(layer.mlp_norm(attended_BTD))
    return left_BTD


_BERT_PROJECTIONS = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
# The axes of tensors. Written: D width, H all heads, M inside the MLP; "3H": three of them, fused.
# Read, that is summed over by who comes next: d, h, m. A dot: the same size in every model. The
# head's last norm is read by the output matrix, which is tied to the embeddings.
_BERT_AXES = {
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
_MODERNBERT_AXES = {
    "model.embeddings.tok_embeddings.weight": ". D",
    "model.embeddings.norm.weight": "D",
    "attn_norm.weight": "D",
    "attn.Wqkv.weight": "3H d",
    "attn.Wo.weight": "D h",
    "mlp_norm.weight": "D",
    "mlp.Wi.weight": "2M d",
    "mlp.Wo.weight": "D m",
    "model.final_norm.weight": "D",
    "head.dense.weight": "D d",
    "head.norm.weight": "d",
    "decoder.weight": ". D",
    "decoder.bias": ".",
}

ANATOMIES = {
    "bert": Anatomy(
        "bert",
        "bert.encoder.layer",
        lambda model, hidden_ND: model.cls(hidden_ND),
        output="cls.predictions.decoder",
        projections=_BERT_PROJECTIONS,
        embeddings="bert.embeddings",
        attention="attention.self",
        attention_dropout="attention_probs_dropout_prob",
        after_mixing=_bert_after_mixing,
        same=("hidden_act", "tie_word_embeddings"),
        axes=_BERT_AXES,
    ),
    "roberta": Anatomy(
        "roberta",
        "roberta.encoder.layer",
        lambda model, hidden_ND: model.lm_head(hidden_ND),
        output="lm_head.decoder",
        projections=_BERT_PROJECTIONS,
        embeddings="roberta.embeddings",
        attention="attention.self",
        attention_dropout="attention_probs_dropout_prob",
        after_mixing=_bert_after_mixing,
        same=("hidden_act", "tie_word_embeddings"),
    ),
    "distilbert": Anatomy(
        "distilbert",
        "distilbert.transformer.layer",
        _distilbert_head,
        output="vocab_projector",
        projections=tuple(f"attention.{name}_lin" for name in "qkv"),
        embeddings="distilbert.embeddings",
        attention="attention",
        attention_dropout="attention_dropout",
        after_mixing=_distilbert_after_mixing,
        same=("activation", "tie_word_embeddings"),
    ),
    "modernbert": Anatomy(
        "model",
        "model.layers",
        _modernbert_head,
        output="decoder",
        projections=("attn.Wqkv",),
        rotary="attn",
        embeddings="model.embeddings",
        attention="attn",
        attention_dropout="attention_dropout",
        after_mixing=_modernbert_after_mixing,
        norm="attn_norm",
        pre_norm=True,
        # its first layer reads the normalised embeddings as they are
        optional={"attn_norm.weight": "model.embeddings.norm.weight"},
        same=("hidden_activation", "classifier_activation", "tie_word_embeddings"),
        axes=_MODERNBERT_AXES,
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
