"""Adapters of queries' and values' matrices, W' = W + s (B A + S), and what they decide to remove.

They are parametrizations of torch: a layer multiplies with W' whoever calls it, the last one on its
target rows too, and what is merged is an ordinary model. (peft exchanges the layers, and knows no
part of a fused matrix, no sparse places and no masks.)

Legend: D outputs, C inputs of a matrix, P its tuned parts (queries, values), R rank, K places of
all parts.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.models.anatomy import anatomy_of, head_size, is_linear, layers_of, num_heads
from dwt_cli.models.decomposition import has_numbers, places_of
from dwt_cli.models.flops import num_trained
from dwt_cli.models.tuning import Dsee, Lora, PruneBy

_DEVIATION = 0.02

Rows = tuple[int, int]
"""The first output of a part of a matrix, and the one after its last."""


class Adapter(nn.Module):
    """What is added to some outputs of a matrix: s (B A + S), S at fixed places.

    parts: those outputs, equally many in each part. down: A (P * R, C). up: B (P * D, R). values:
    of S (K,), at ``places`` in the parts' (P, D, C) numbers. removed: 1 when weights have been set
    to zero.
    """

    removed: Tensor
    places: Tensor

    def __init__(
        self, weight_DC: Tensor, parts: list[Rows], options: Lora, seed: int, stored_CD: bool
    ) -> None:
        super().__init__()
        self.parts, self.stored_CD = parts, stored_CD
        self.rank, self.scale = options.rank, options.scale
        size, device = parts[0][1] - parts[0][0], weight_DC.device
        down = torch.zeros(len(parts) * self.rank, weight_DC.shape[1], device=device)
        if has_numbers(down):
            drawn = generator(seed_for(seed, "down")).standard_normal(down.shape)
            down.copy_(torch.from_numpy(drawn * _DEVIATION))
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(len(parts) * size, self.rank, device=device))
        self.values: nn.Parameter | None = None
        if sparse := options.sparse:
            places = [
                places_of(sparse, weight_DC[slice(*rows)], seed_for(seed, "places", number))
                + number * size * weight_DC.shape[1]
                for number, rows in enumerate(parts)
            ]
            self.register_buffer("places", torch.cat(places))
            self.values = nn.Parameter(torch.zeros(sum(map(len, places)), device=device))
        self.register_buffer("removed", torch.zeros((), dtype=torch.int64, device=device))

    @property
    def flops(self) -> int:
        """FLOPs of the product B A."""
        return 2 * self.up.numel() * self.down.shape[1]

    def change(self) -> Tensor:
        """Return s (B A + S) of the parts (P, D, C)."""
        num_parts = len(self.parts)
        down_PRC = self.down.unflatten(0, (num_parts, self.rank))
        change_PDC = self.up.unflatten(0, (num_parts, -1)) @ down_PRC
        if self.values is not None:
            flat = change_PDC.flatten().index_add(0, self.places, self.values)
            change_PDC = flat.view_as(change_PDC)
        return self.scale * change_PDC

    def forward(self, weight: Tensor) -> Tensor:
        """Return W', stored as the weight is; it is formed in the weight's own number type."""
        device = "cpu" if weight.is_meta else weight.device.type
        with torch.autocast(device, enabled=False):
            weight_DC = weight.mT if self.stored_CD else weight
            pieces, before = [], 0
            for (first, end), change_DC in zip(self.parts, self.change(), strict=True):
                pieces += [weight_DC[before:first], weight_DC[first:end] + change_DC]
                before = end
            changed_DC = torch.cat([*pieces, weight_DC[before:]])
        return changed_DC.mT.contiguous() if self.stored_CD else changed_DC


class _Attention(NamedTuple):
    """The matrices of a layer's attention: queries and values, which may be parts of one, and the
    one that reads the heads."""

    tuned: list[tuple[nn.Module, list[Rows]]]
    output: nn.Module


def _attention(model: PreTrainedModel, layer: nn.Module) -> _Attention:
    """Return them; in every family known here they are a layer's first matrices, in this order."""
    linears = [module for module in layer.modules() if is_linear(module)]
    if len(anatomy_of(model).projections) == 1:
        size = len(_by_outputs(linears[0])) // 3
        return _Attention([(linears[0], [(0, size), (2 * size, 3 * size)])], linears[1])
    query, _, value, output = linears[:4]
    return _Attention([(each, [(0, len(_by_outputs(each)))]) for each in (query, value)], output)


def _by_outputs(module: Any) -> Tensor:
    """Return a matrix's weights (D, C) as they are stored, without what is added; a view."""
    is_tuned = parametrize.is_parametrized(module, "weight")
    weight: Tensor = module.parametrizations.weight.original if is_tuned else module.weight
    return weight.mT if isinstance(module, Conv1D) else weight


def sizes(model: PreTrainedModel) -> tuple[tuple[int, int], int]:
    """Return outputs and inputs of the smallest tuned part, and how many heads a layer has."""
    tuned = [each for layer in layers_of(model) for each in _attention(model, layer).tuned]
    found = [
        (end - first, _by_outputs(module).shape[1])
        for module, parts in tuned
        for first, end in parts
    ]
    return min(found), num_heads(model.config)[0]


def attach(model: PreTrainedModel, options: Lora, seed: int, trains_head: bool) -> None:
    """Freeze a model, and give its queries and values adapters; see `Tuning.attach`.

    trains_head: also what is outside of the backbone, and its pooling layer.
    """
    backbone = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        is_body = name.startswith(backbone) and ".pooler." not in name
        parameter.requires_grad_(trains_head and not is_body)
    for number, layer in enumerate(layers_of(model)):
        for which, (module, parts) in enumerate(_attention(model, layer).tuned):
            own = seed_for(seed, "tuning", number, which)
            is_turned = isinstance(module, Conv1D)
            adapter = Adapter(_by_outputs(module), parts, options, own, is_turned)
            parametrize.register_parametrization(module, "weight", adapter)


def adapters(model: nn.Module) -> list[Adapter]:
    """Return a model's adapters, in order."""
    return [module for module in model.modules() if isinstance(module, Adapter)]


def merge(model: PreTrainedModel) -> dict[str, Any]:
    """Leave W' in the place of W and its adapter, in place; see `Tuning.merge`."""
    account: dict[str, Any] = {"trained": num_trained(model)}
    if any(adapter.removed for adapter in adapters(model)):
        found = [_by_outputs(module) for layer in layers_of(model) for module in _linears(layer)]
        zeros = sum(int((weight == 0).sum()) for weight in found)
        account["zeros"] = zeros / sum(weight.numel() for weight in found)
    for module in [*model.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            # of its own: torch takes the property from a class that copies of the module share
            own = type(module)
            module.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    model.requires_grad_(True)
    return account


@torch.no_grad()
def remove(model: PreTrainedModel, options: Dsee, seed: int) -> None:
    """Set weights and heads to zero, once; see `Tuning.remove`."""
    if any(adapter.removed for adapter in adapters(model)):
        return
    draws = generator(seed_for(seed, "tuning", "masks"))
    for group in zip(*_parts(model), strict=True) if options.prune else ():
        pieces = [piece for layer in group for piece in layer]
        own = [_size(options.prune_by, piece, draws) for piece in pieces]
        for (weight_DC, _), kept_DC in zip(pieces, kept(own, options.prune), strict=True):
            weight_DC.mul_(kept_DC)
    for layer in layers_of(model) if options.heads else ():
        _remove_heads(model, _attention(model, layer), options.heads)
    for adapter in adapters(model):
        adapter.removed.fill_(1)


def _linears(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if is_linear(module)]


Piece = tuple[Tensor, Tensor | None]
"""Weights (D, C) of a part of a matrix, a view, and what was added to them."""


def _parts(model: PreTrainedModel) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """Yield the tuned pieces of each layer's matrices, and the others."""
    for layer in layers_of(model):
        tuned: list[Piece] = []
        others: list[Piece] = []
        for module in _linears(layer):
            weight_DC, before = _by_outputs(module), 0
            for adapter in adapters(module):
                for (first, end), change_DC in zip(adapter.parts, adapter.change(), strict=True):
                    others.append((weight_DC[before:first], None))
                    tuned.append((weight_DC[first:end], change_DC))
                    before = end
            others.append((weight_DC[before:], None))
        yield tuned, others


def _size(by: PruneBy, piece: Piece, draws: np.random.Generator) -> Tensor:
    """Return the size (D, C) by which weights stay."""
    weight_DC, change_DC = piece
    if by is PruneBy.random:
        return torch.from_numpy(draws.random(weight_DC.shape)).to(weight_DC)
    if by is PruneBy.update and change_DC is not None:
        return change_DC.abs()
    return weight_DC.abs()


def kept(sizes: list[Tensor], share: float) -> list[Tensor]:
    """Return masks: 0 at that share of all numbers together which is smallest, else 1."""
    flat = torch.cat([each.flatten().cpu() for each in sizes])  # a sort takes six times as much
    mask = torch.ones_like(flat)
    mask[flat.argsort(stable=True)[: round(share * len(flat))]] = 0
    pieces = mask.split([each.numel() for each in sizes])
    return [piece.view_as(each).to(each) for piece, each in zip(pieces, sizes, strict=True)]


def _remove_heads(model: PreTrainedModel, attention: _Attention, number: int) -> None:
    """Set to zero what reads the heads whose queries and values are changed least."""
    changes = [
        change_DC
        for module, _ in attention.tuned
        for adapter in adapters(module)
        for change_DC in adapter.change()
    ]
    heads, shared = num_heads(model.config)
    of_queries, of_values = (
        change_DC.abs().unflatten(0, (count, -1)).sum((1, 2))
        for change_DC, count in zip(changes, (heads, shared), strict=True)
    )
    lowest = (of_queries + of_values.repeat_interleave(heads // shared)).argsort(stable=True)
    width, output_DC = head_size(model.config), _by_outputs(attention.output)
    for head in lowest[:number].tolist():
        output_DC[:, head * width : (head + 1) * width] = 0
