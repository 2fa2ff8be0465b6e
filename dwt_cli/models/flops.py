"""What a model costs: floating-point operations in closed form.

A multiplication and an addition are two operations. Counted are the matrix products, which are
all but a few per cent of a transformer: every linear layer, and the two products of attention.
In a family whose parts are not known here, head and last layer too run on every position.
"""

import math
from collections.abc import Iterator
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
    total = sum(flops for _, flops in _products(model, block_length, num_targets, whole))
    queries = config.num_hidden_layers * block_length
    if not whole:
        queries -= block_length - num_targets
    width = config.num_attention_heads * head_size(config)
    products = (2 if is_decoder(config) else 4) * queries * block_length * width
    return num_blocks * (total + products)


def training_flops(
    model: PreTrainedModel,
    num_blocks: int,
    block_length: float,
    num_targets: float | Fraction,
    features: FeatureSpec = NO_FEATURES,
) -> float:
    """Return those of a forward and a backward pass; arguments as of `forward_flops`.

    A frozen matrix has one product less, that of its gradient. The little that a first layer saves
    below which nothing is trained is not taken off.
    """
    sizes = (num_blocks, block_length, num_targets)
    whole = runs_whole(model.config, features)
    frozen: float = 0  # an int stays one
    for module, flops in _products(model, block_length, num_targets, whole):
        if not any(parameter.requires_grad for parameter in module.parameters()):
            frozen += num_blocks * flops
    return forward_flops(model, *sizes, features) * FORWARD_AND_BACKWARD - frozen


def _products(
    model: PreTrainedModel, block_length: float, num_targets: float | Fraction, whole: bool
) -> Iterator[tuple[nn.Module, float]]:
    """Yield each matrix of a model, and the FLOPs of its product for one block."""
    for name, module in model.named_modules():
        if is_linear(module):
            alone = _share_of_rows(model, name, whole)
            rows = alone * num_targets + (1 - alone) * block_length
            yield module, 2 * round(math.prod(module.weight.shape) * rows)


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


def num_trained(model: nn.Module) -> int:
    """Return the number of distinct parameters that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
