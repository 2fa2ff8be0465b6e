"""Features of a model's layers: hidden states, and queries, keys and values.

They are captured by hooks, which are there for one forward pass and gone after it.

Legend: B blocks, L positions, D width, H heads, E width of a head.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import rotate_half

from dwt_cli.base.errors import UserError
from dwt_cli.models.anatomy import (
    ANATOMIES,
    anatomy_of,
    head_size,
    is_decoder,
    is_known,
    layers_of,
)


class Heads(NamedTuple):
    """Queries, keys and values of one layer, (B, H, L, E) each, as attention multiplies them."""

    queries_BHLE: Tensor
    keys_BHLE: Tensor
    values_BHLE: Tensor


FeatureSpec = frozenset[tuple[str, int]]
"""The features that are requested: ("hidden", n) for the states that leave layer n, ("heads", n)
for its `Heads`, and `ROWS`. Layers count from 0, or from the end with -1."""

NO_FEATURES: FeatureSpec = frozenset()
ROWS = ("rows", 0)
"""The request for the states that enter the head at the target rows, whatever the layer."""


def runs_whole(config: PreTrainedConfig, spec: FeatureSpec) -> bool:
    """Return whether a model's last layer runs on all positions, not on target rows alone."""
    anatomy = ANATOMIES.get(config.model_type)
    layers = {layer for kind, layer in spec - {ROWS}}
    requested = not {-1, config.num_hidden_layers - 1}.isdisjoint(layers)
    return requested or anatomy is None or anatomy.last_layer is None


class Features(NamedTuple):
    """Values that a forward pass computed in layers, by the layers' numbers in the request.

    hidden: the states (B, L, D) that leave a layer. heads: queries, keys and values of a layer.
    causal: a position attends to itself and to those before it alone. documents_BL: int64 numbers
    of the documents that it stays in; None: a block is one. rows_ND: what enters the head at the
    target rows. taught_BL: bool, where there is something to compare with; None: everywhere.
    present_BL: bool, false at padding; None: there is none.
    """

    hidden: dict[int, Tensor]
    heads: dict[int, Heads]
    causal: bool = False
    documents_BL: Tensor | None = None
    rows_ND: Tensor | None = None
    taught_BL: Tensor | None = None
    present_BL: Tensor | None = None

    def detached(self) -> "Features":
        """Return them without a gradient."""
        hidden = {number: states.detach() for number, states in self.hidden.items()}
        heads = {number: Heads(*(h.detach() for h in each)) for number, each in self.heads.items()}
        rows_ND = None if self.rows_ND is None else self.rows_ND.detach()
        return self._replace(hidden=hidden, heads=heads, rows_ND=rows_ND)

    def mean(self, values: Tensor, positions: int = 1) -> Tensor:
        """Return the mean, which padding has no part in: of each block's own, over blocks.

        values: (B, ...), with positions on the axis of that number.
        """
        if self.present_BL is None:
            return values.mean()
        others = [axis for axis in range(1, values.ndim) if axis != positions]
        values_BL = values.mean(others) if others else values
        sums_B = values_BL.masked_fill(~self.present_BL, 0).sum(1)
        return (sums_B / self.present_BL.sum(1)).mean()

    def unseen(self, like: Tensor) -> Tensor | None:
        """Return which of the last axis a position does not see, (B or 1, 1, L, L); None: it does.

        Padding sees nothing, and is not seen. like: a tensor (..., L, L).
        """
        if not self.causal and self.present_BL is None:
            return None
        diagonal = 1 if self.causal else like.shape[-1]
        is_unseen = like.new_ones(like.shape[-2:]).triu(diagonal).bool()[None, None]
        if self.present_BL is not None:
            absent_B1L = ~self.present_BL[:, None]
            is_unseen = is_unseen | absent_B1L[..., None] | absent_B1L[..., None, :]
        if self.documents_BL is not None:
            documents_B1L = self.documents_BL[:, None]
            is_unseen = is_unseen | (documents_B1L[..., None] != documents_B1L[..., None, :])
        return is_unseen


def check_layers(config: PreTrainedConfig, spec: FeatureSpec, setting: str) -> None:
    """Raise `UserError` for a layer that a model does not have, or a family without anatomy."""
    if not is_known(config):
        raise UserError(
            f"{setting}: the layers of a {config.model_type} are not known here, only its logits "
            f"are; choose objective=logits, or a model of type {', '.join(sorted(ANATOMIES))}"
        )
    there = config.num_hidden_layers
    for layer in sorted({layer for _, layer in spec}):
        if not -there <= layer < there:
            raise UserError(
                f"{setting}: layer {layer} of a model with {there} layers; layers count from 0 to "
                f"{there - 1}, or from -1 at the end"
            )


@contextlib.contextmanager
def captured(
    model: PreTrainedModel,
    spec: FeatureSpec,
    documents_BL: Tensor | None = None,
    present_BL: Tensor | None = None,
) -> Iterator[Features]:
    """Capture features of the forward pass that runs inside this context; whole at its end."""
    apart = (is_decoder(model.config), documents_BL)
    features = Features({}, {}, *apart, present_BL=present_BL)
    seen: dict[nn.Module, tuple[dict[str, Any], Tensor]] = {}

    def keep(module: nn.Module, inputs: Any, named: dict[str, Any], output: Tensor) -> None:
        seen[module] = named, output

    layers, names = layers_of(model), anatomy_of(model).projections
    linears = {
        number: [layers[number].get_submodule(name) for name in names]
        for kind, number in spec
        if kind == "heads"
    }
    modules = {layers[number] for _, number in spec - {ROWS}}.union(*linears.values())
    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()
    for number in (number for kind, number in spec if kind == "hidden"):
        _, features.hidden[number] = seen[layers[number]]
    for number, projections in linears.items():
        named, _ = seen[layers[number]]
        outputs = [seen[linear][1] for linear in projections]
        features.heads[number] = _heads(model.config, outputs, named.get("position_embeddings"))


def _heads(
    config: PreTrainedConfig, projected: Sequence[Tensor], angles: tuple[Tensor, Tensor] | None
) -> Heads:
    if len(projected) == 1:
        projected = projected[0].chunk(3, dim=-1)
    queries, keys, values = (in_heads(part_BLD, config) for part_BLD in projected)
    if angles is not None:
        queries, keys = rotated(queries, *angles), rotated(keys, *angles)
    if scalar := getattr(config, "query_pre_attn_scalar", None):  # else the size of a head
        queries = queries * (head_size(config) / scalar) ** 0.5
    of_group = queries.shape[1] // keys.shape[1]  # heads that share keys and values
    keys, values = (part.repeat_interleave(of_group, 1) for part in (keys, values))
    return Heads(queries, keys, values)


def in_heads(states_BLD: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return queries, keys or values by head (B, H, L, E), which may be an axis (B, L, H, E)."""
    is_by_head = states_BLD.ndim == 4
    if is_by_head and ANATOMIES[config.model_type].heads_first:
        return states_BLD
    by_head = states_BLD if is_by_head else states_BLD.unflatten(-1, (-1, head_size(config)))
    return by_head.transpose(1, 2)


def rotated(states_BHLE: Tensor, cos_BLE: Tensor, sin_BLE: Tensor) -> Tensor:
    """Return queries or keys with rotary positions, in fp32 as in transformers."""
    exact = states_BHLE.float()
    turned = exact * cos_BLE[:, None] + rotate_half(exact) * sin_BLE[:, None]
    return turned.to(states_BHLE.dtype)
