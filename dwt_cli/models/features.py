"""Features of a model's layers: hidden states, and queries, keys and values.

They are captured by hooks, which are there for one forward pass and gone after it.

Legend: B blocks, L positions, D width, H heads, E width of a head.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from dwt_cli.base.errors import UserError
from dwt_cli.models.anatomy import ANATOMIES, anatomy_of, is_known


class Heads(NamedTuple):
    """Queries, keys and values of one layer, (B, H, L, E) each, as attention multiplies them."""

    queries_BHLE: Tensor
    keys_BHLE: Tensor
    values_BHLE: Tensor


@dataclass(frozen=True)
class FeatureSpec:
    """The layers whose features are requested; layers count from 0, or from the end with -1.

    hidden_layers: for the states that leave them. heads_layers: for `Heads`.
    """

    hidden_layers: frozenset[int] = frozenset()
    heads_layers: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hidden_layers or self.heads_layers)

    def __or__(self, other: "FeatureSpec") -> "FeatureSpec":
        return FeatureSpec(
            self.hidden_layers | other.hidden_layers, self.heads_layers | other.heads_layers
        )

    def has_last(self, config: PreTrainedConfig) -> bool:
        """Return whether a model's last layer is requested: it then runs on all positions."""
        last = {-1, config.num_hidden_layers - 1}
        return not last.isdisjoint(self.hidden_layers | self.heads_layers)


NO_FEATURES = FeatureSpec()


class Features(NamedTuple):
    """Values that a forward pass computed in layers, by the layers' numbers in the request.

    hidden: the states (B, L, D) that leave a layer. heads: queries, keys and values of a layer.
    """

    hidden: Mapping[int, Tensor]
    heads: Mapping[int, Heads]


def check_layers(config: PreTrainedConfig, spec: FeatureSpec, setting: str) -> None:
    """Raise `UserError` for a layer that a model does not have, or a family without anatomy."""
    if not is_known(config):
        raise UserError(
            f"{setting}: the layers of a {config.model_type} are not known here, only its logits "
            f"are; choose objective=logits, or a model of type {', '.join(sorted(ANATOMIES))}"
        )
    there = config.num_hidden_layers
    for layer in sorted(spec.hidden_layers | spec.heads_layers):
        if not -there <= layer < there:
            raise UserError(
                f"{setting}: layer {layer} of a model with {there} layers; layers count from 0 to "
                f"{there - 1}, or from -1 at the end"
            )


@contextlib.contextmanager
def captured(model: PreTrainedModel, spec: FeatureSpec) -> Iterator[Features]:
    """Capture features of the forward pass that runs inside this context; whole at its end."""
    hidden: dict[int, Tensor] = {}
    heads: dict[int, Heads] = {}
    if not spec:
        yield Features(hidden, heads)
        return
    layers = model.get_submodule(anatomy_of(model).layers)
    assert isinstance(layers, nn.ModuleList)
    hooks: list[Any] = []
    projections: dict[int, _Projections] = {}
    for layer in spec.hidden_layers:
        hooks.append(layers[layer].register_forward_hook(_keep_hidden(hidden, layer)))
    for layer in spec.heads_layers:
        projections[layer] = _Projections(model, layers[layer], hooks)
    try:
        yield Features(hidden, heads)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, parts in projections.items():
        heads[layer] = parts.heads()


def _keep_hidden(hidden: dict[int, Tensor], layer: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden[layer] = output if isinstance(output, Tensor) else output[0]

    return hook


class _Projections:
    """The projections of one layer's attention, and its rotary angles where it has any."""

    def __init__(self, model: PreTrainedModel, layer: nn.Module, hooks: list[Any]) -> None:
        self._num_heads = model.config.num_attention_heads
        self._outputs: dict[str, Tensor] = {}
        self._angles: tuple[Tensor, Tensor] | None = None
        anatomy = anatomy_of(model)
        self._names = anatomy.projections
        for name in self._names:
            hooks.append(layer.get_submodule(name).register_forward_hook(self._keep(name)))
        if anatomy.rotary is not None:
            attention = layer.get_submodule(anatomy.rotary)
            hooks.append(attention.register_forward_pre_hook(self._keep_angles, with_kwargs=True))

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._outputs[name] = output

        return hook

    def _keep_angles(self, module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        self._angles = named["position_embeddings"]

    def heads(self) -> Heads:
        projected: Sequence[Tensor] = [self._outputs[name] for name in self._names]
        if len(projected) == 1:
            projected = projected[0].chunk(3, dim=-1)
        queries, keys, values = (
            part_BLD.unflatten(-1, (self._num_heads, -1)).transpose(1, 2) for part_BLD in projected
        )
        if self._angles is not None:
            queries, keys = apply_rotary_pos_emb(queries, keys, *self._angles)
        return Heads(queries, keys, values)
