"""How a family of models is described.

Legend: N target rows (B blocks of T), V vocabulary, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli.models.options import Architecture, Head

# the ids that `dwt_cli.data.tokenizer` gives to its special tokens
PAD_ID, CLS_ID, SEP_ID = 0, 2, 3

SIZES = {
    "width": "hidden_size",
    "mlp_width": "intermediate_size",
    "num_heads": "num_attention_heads",
}
"""A made model's settings, by their names in its configuration."""


def _all_positions(config: PreTrainedConfig) -> int:
    positions: int = config.max_position_embeddings
    return positions


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model with a head over the vocabulary, by their names in its state dict.

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
        Written: D width, H all heads, M inside the MLP; "3H": three of them, fused. Read, that is
        summed over by who comes next: d, h, m. A dot: the same size in every model. The head's
        last norm is read by the output matrix, which is tied to the embeddings.
    predicts: what the head is for.
    num_positions: a configuration -> the longest block that the model reads.
    make: options -> a randomly initialised model; None for a family that is only opened.
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
    predicts: Head = Head.masked
    num_positions: Callable[[PreTrainedConfig], int] = _all_positions
    make: Callable[[Architecture], PreTrainedModel] | None = None

    def place_of(self, name: str) -> tuple[int | None, str]:
        """Return a tensor's layer and its name there; outside layers None and the whole name."""
        if not name.startswith(f"{self.layers}."):
            return None, name
        number, _, inside = name.removeprefix(f"{self.layers}.").partition(".")
        return int(number), inside
