"""What a model costs: floating-point operations in closed form.

A multiplication and an addition are two operations. Counted are the matrix products, which are
all but a few per cent of a transformer: every linear layer, and the two products of attention.
In a family whose parts are not known here, the head too runs on every position.
"""

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of, is_known

FORWARD_AND_BACKWARD = 3  # the backward pass has two products for each one of the forward pass


def forward_flops(
    model: PreTrainedModel, num_blocks: int, block_length: int, num_targets: int
) -> int:
    """Of one forward pass over ``num_blocks`` blocks with ``num_targets`` head rows per block."""
    known = is_known(model.config)
    backbone = getattr(model, anatomy_of(model).backbone) if known else model
    in_backbone = {id(module) for module in backbone.modules()}
    per_position = per_target = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            products = 2 * module.in_features * module.out_features
            if id(module) in in_backbone:
                per_position += products
            else:
                per_target += products
    config = model.config
    num_layers, width = config.num_hidden_layers, config.hidden_size
    attention = 4 * num_layers * block_length**2 * width
    per_block = per_position * block_length + attention + per_target * num_targets
    return num_blocks * per_block


def num_parameters(model: nn.Module) -> int:
    """Distinct parameters: tied matrices count once."""
    return sum(parameter.numel() for parameter in model.parameters())
