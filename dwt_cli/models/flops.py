"""What a model costs: floating-point operations in closed form.

A multiplication and an addition are two operations. Counted are the matrix products, which are
all but a few per cent of a transformer: every linear layer, and the two products of attention.
In a family whose parts are not known here, head and last layer too run on every position.
"""

import math
from fractions import Fraction

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of, head_size, is_decoder, is_known, is_linear
from dwt_cli.models.features import NO_FEATURES, FeatureSpec, runs_whole

FORWARD_AND_BACKWARD = 3  # the backward pass has two products for each one of the forward pass


def forward_flops(
    model: PreTrainedModel,
    num_blocks: int,
    block_length: float,
    num_targets: float | Fraction,
    features: FeatureSpec = NO_FEATURES,
    *,
    ragged: bool = False,
) -> float:
    """Return those of a forward pass over ``num_blocks`` blocks with ``num_targets`` rows each.

    The last layer too is for those rows alone, but for its keys and values; where ``features`` of
    it are requested, in a decoder, and of ``ragged`` blocks all of it is computed. A decoder's
    attention is counted half: a position sees those before it.

    block_length, num_targets: where blocks differ, the means of them.
    """
    config, whole = model.config, ragged or runs_whole(model.config, features)
    total: float = 0
    for name, module in model.named_modules():
        if is_linear(module):
            alone = _share_of_rows(model, name, whole)
            rows = alone * num_targets + (1 - alone) * block_length
            total += 2 * round(math.prod(module.weight.shape) * rows)
    queries = config.num_hidden_layers * block_length
    if not whole:
        queries -= block_length - num_targets
    width = config.num_attention_heads * head_size(config)
    products = (2 if is_decoder(config) else 4) * queries * block_length * width
    return num_blocks * (total + products)


def _share_of_rows(model: PreTrainedModel, name: str, whole: bool) -> Fraction:
    """Return the share of a matrix that is multiplied with the states of target rows alone."""
    if not is_known(model.config):
        return Fraction(0)
    anatomy = anatomy_of(model)
    layer, inside = anatomy.place_of(name)
    if layer is None:
        is_inside = name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name
        return Fraction(not is_inside)
    if whole or layer < model.config.num_hidden_layers - 1:
        return Fraction(0)
    if inside not in anatomy.projections:
        return Fraction(1)
    fused = len(anatomy.projections) == 1
    return Fraction(1, 3) if fused else Fraction(inside == anatomy.projections[0])  # the queries


def num_parameters(model: nn.Module) -> int:
    """Return the number of distinct parameters: tied matrices count once."""
    return sum(parameter.numel() for parameter in model.parameters())
