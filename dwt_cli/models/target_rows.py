"""The last layer on the target rows alone, equally many of each block.

Nobody reads what the last layer makes of the other positions, which are 85% of them where 15% are
masked. They are needed as keys and values; queries, and all that follows attention, are
computed for the target rows only. The result is the same to rounding.

Legend: B blocks, L positions, T target rows of a block, N = B * T of all blocks, D width, H heads,
E width of a head.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward

from dwt_cli.models.anatomy import anatomy_of, layers_of
from dwt_cli.models.families.parts import Anatomy
from dwt_cli.models.features import in_heads, rotated


def take_rows(model: PreTrainedModel) -> None:
    """Let the last layer take ``rows_N`` too, which a backbone hands to its layers.

    Given them, it returns their states (B, T, D) alone; without them it is what it was. Nothing is
    changed in a family that has no description of it.
    rows_N: int64 places in the flattened (B * L) positions, T of each block, block after block.
    """
    anatomy, config, last = anatomy_of(model), model.config, layers_of(model)[-1]

    def forward(layer: Any, *args: Any, rows_N: Tensor | None = None, **named: Any) -> Any:
        if rows_N is None:
            return type(layer).forward(layer, *args, **named)
        return _of_rows(anatomy, config, layer, rows_N, *args, **named)

    if anatomy.last_layer is not None:
        # bound to its layer, so that a copy of the model gets a copy of it
        last.forward = MethodType(forward, last)


def _of_rows(
    anatomy: Anatomy,
    config: PreTrainedConfig,
    layer: nn.Module,
    rows_N: Tensor,
    hidden_BLD: Tensor,
    attention_mask: Tensor | None = None,
    *_: Any,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **__: Any,
) -> Tensor:
    """Return the states (B, T, D) that leave the layer; other arguments as in transformers."""
    parts = anatomy.last_layer
    assert parts is not None
    num_blocks, length, _width = hidden_BLD.shape
    places_BT = (rows_N % length).view(num_blocks, -1)
    blocks_BT = (rows_N // length).view(num_blocks, -1)
    its_own_B1 = torch.arange(num_blocks, device=rows_N.device)[:, None]
    # a row in another's place is out of range: reading it stops even a GPU, which nobody waits for
    rows_BT = torch.where(blocks_BT == its_own_B1, rows_N.view_as(blocks_BT), hidden_BLD.numel())

    def of_rows(states_BLD: Tensor) -> Tensor:
        states_ND = states_BLD.flatten(0, 1).index_select(0, rows_BT.flatten())
        return states_ND.unflatten(0, rows_BT.shape)

    read_BLD = layer.get_submodule(parts.norm)(hidden_BLD) if parts.norm else hidden_BLD
    linears = [layer.get_submodule(name) for name in anatomy.projections]
    queries, keys, values = (
        in_heads(each, config) for each in _projected(linears, of_rows(read_BLD), read_BLD)
    )
    if position_embeddings is not None:
        cos_1LE, sin_1LE = position_embeddings
        queries = rotated(queries, cos_1LE[0, places_BT], sin_1LE[0, places_BT])
        keys = rotated(keys, cos_1LE, sin_1LE)
    if attention_mask is not None:  # (1 or B, 1, L, L)
        each = attention_mask.expand(num_blocks, -1, -1, -1)
        attention_mask = each.take_along_dim(places_BT[:, None, :, None], dim=2)
    mix = ALL_ATTENTION_FUNCTIONS.get_interface(
        config._attn_implementation, eager_attention_forward
    )
    mixed_BTHE, _weights = mix(
        layer.get_submodule(parts.attention),
        queries,
        keys,
        values,
        attention_mask,
        dropout=getattr(config, parts.dropout) if layer.training else 0.0,
        scaling=queries.shape[-1] ** -0.5,
    )
    return parts.after_mixing(layer, mixed_BTHE.flatten(2), of_rows(hidden_BLD))


def _projected(
    linears: list[Any], asking_BTD: Tensor, read_BLD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B, T, D) of the rows, keys and values (B, L, D) of all positions."""
    if len(linears) == 3:
        query, key, value = linears
        return query(asking_BTD), key(read_BLD), value(read_BLD)
    (fused,) = linears
    sizes = (fused.out_features // 3, fused.out_features // 3 * 2)
    query, key_value = fused.weight.split(sizes)
    query_bias, bias = (None, None) if fused.bias is None else fused.bias.split(sizes)
    keys, values = F.linear(read_BLD, key_value, bias).chunk(2, dim=-1)
    return F.linear(asking_BTD, query, query_bias), keys, values
