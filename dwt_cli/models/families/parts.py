"""How a family of models is described.

Legend: B blocks, L positions, T target rows of a block, N = B * T of all blocks, V vocabulary,
D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from dwt_cli.models.options import Architecture, Head

# the ids that `dwt_cli.data.tokenizer` gives to its special tokens
PAD_ID, CLS_ID, SEP_ID = 0, 2, 3
MARK_ID = 0
"""The id of the mark at the ends of documents, in a decoder that is made (`dwt_cli.data.bpe`)."""


def settings(options: Architecture, dropouts: Sequence[str]) -> dict[str, Any]:
    """Return a model's sizes by the names that most configurations have, and its dropouts."""
    return {
        "hidden_size": options.width,
        "intermediate_size": options.mlp_width,
        "num_attention_heads": options.num_heads,
        "num_hidden_layers": options.num_layers,
        "vocab_size": options.vocab_size,
        "max_position_embeddings": max(512, options.max_length),
        **dict.fromkeys(dropouts, options.dropout),
    }


@dataclass(frozen=True)
class LastLayer:
    """The parts of a layer that `dwt_cli.models.target_rows` needs, by their names in it.

    attention: the module that mixes positions. dropout: the setting with its dropout. norm: the
    norm before it. after_mixing: a layer, what attention has mixed (B, T, D) and the states that
    entered the layer (B, T, D) -> the states that leave it.
    """

    attention: str
    dropout: str
    after_mixing: Callable[[Any, Tensor, Tensor], Tensor]
    norm: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model with a head over the vocabulary, by their names in its state dict.

    layers: the prefix of the numbered layers.
    projections: in a layer, the linear maps to queries, keys and values; one if they are fused.
    embeddings: the prefix of what comes before the layers.
    transform: hidden states of the target rows (N, D) -> what the output matrix reads.
    output: the last matrix of the head, from width to vocabulary.
    cap: a configuration -> c, where logits are c * tanh(logits / c); None: as they are.
    last_layer: how the last layer is computed on the target rows alone; None: it never is, as in
        a causal family, in which all positions are targets and each has a mask of its own.
    pre_norm: a layer adds to a residual stream that no norm interrupts.
    output_norms: the norms of what a layer adds to it, if there are.
    stored: a module, a configuration -> the factor and the summand by which its weights count:
        factor * (weights + summand).
    heads_first: heads that are an axis come before the positions.
    optional: what a layer may lack, and the tensor outside that did its work there.
    same: settings without a tensor that give the weights their meaning.
    axes: what the axes of each module's weight are, for remapping; inside a layer by the name
        there. Written: D width, H all heads, K those of keys and values, M inside the MLP; "3H":
        three of them, fused. Read, that is summed over by who comes next: d, h, m. A dot: the same
        size in every model. The head's last norm is read by the output matrix, which is tied to
        the embeddings.
    predicts: what the head is for.
    call: more arguments of the backbone.
    num_positions: a configuration -> the longest block that the model reads.
    mlp_width: a configuration -> the width inside the MLP.
    mask: a configuration, the length L of blocks without padding -> the backbone's attention mask.
    configure: options -> a configuration; None for a family that is only opened.
    """

    layers: str
    projections: tuple[str, ...]
    embeddings: str
    transform: Callable[[Any, Tensor], Tensor] = lambda model, hidden_ND: hidden_ND
    output: str = "lm_head"
    cap: Callable[[PreTrainedConfig], float | None] = lambda config: None
    last_layer: LastLayer | None = None
    pre_norm: bool = False
    output_norms: tuple[str, ...] = ()
    stored: Callable[[str, PreTrainedConfig], tuple[float, float]] = lambda module, config: (1, 0)
    heads_first: bool = False
    optional: Mapping[str, str] = field(default_factory=dict)
    same: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    predicts: Head = Head.masked
    call: Mapping[str, Any] = field(default_factory=dict)
    num_positions: Callable[[PreTrainedConfig], int] = attrgetter("max_position_embeddings")
    mlp_width: Callable[[PreTrainedConfig], int] = attrgetter("intermediate_size")
    mask: Callable[[PreTrainedConfig, int], Any] = lambda config, length: None
    configure: Callable[[Architecture], PreTrainedConfig] | None = None

    def __post_init__(self) -> None:
        assert self.predicts is Head.masked or self.last_layer is None, "its rows have masks"

    def place_of(self, name: str) -> tuple[int | None, str]:
        """Return a tensor's layer and its name there; outside layers None and the whole name."""
        if not name.startswith(f"{self.layers}."):
            return None, name
        number, _, inside = name.removeprefix(f"{self.layers}.").partition(".")
        return int(number), inside

    def axes_of(self, name: str) -> list[str]:
        """Return the letters of a tensor's axes; a bias has the one that its module writes."""
        _, inside = self.place_of(name)
        module, _, kind = inside.rpartition(".")
        letters = self.axes[module].split()
        if kind != "bias":
            return letters
        return letters[-1:] if letters[0].islower() else letters[:1]
