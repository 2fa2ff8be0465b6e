"""What a model costs: floating-point operations in closed form.

A multiplication and an addition are two operations. Counted are the matrix products, which are
all but a few per cent of a transformer: every linear layer, and the two products of attention.
In a family whose parts are not known here, head and last layer too run on every position.
"""

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of, is_known
from dwt_cli.models.features import NO_FEATURES, FeatureSpec

FORWARD_AND_BACKWARD = 3  # the backward pass has two products for each one of the forward pass


def forward_flops(
    model: PreTrainedModel,
    num_blocks: int,
    block_length: int,
    num_targets: int,
    features: FeatureSpec = NO_FEATURES,
) -> int:
    """Return those of a forward pass over ``num_blocks`` blocks with ``num_targets`` rows each.

    The last layer too is for those rows alone, but for its keys and values; where ``features`` of
    it are requested, all of it is computed.
    """
    whole = features.whole_last_layer(model.config)
    per_position = per_target = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            products = 2 * module.in_features * module.out_features
            of_rows = round(products * _share_of_rows(model, name, whole))
            per_target += of_rows
            per_position += products - of_rows
    num_layers, width = model.config.num_hidden_layers, model.config.hidden_size
    queries = num_layers * block_length
    if not whole:
        queries -= block_length - num_targets
    attention = 4 * queries * block_length * width
    per_block = per_position * block_length + attention + per_target * num_targets
    return num_blocks * per_block


def _share_of_rows(model: PreTrainedModel, name: str, whole_layers: bool) -> float:
    """Return the share of a matrix that is multiplied with the states of target rows alone."""
    if not is_known(model.config):
        return 0.0
    anatomy = anatomy_of(model)
    layer, inside = anatomy.place_of(name)
    if layer is None:
        return float(not name.startswith(f"{anatomy.backbone}."))
    if whole_layers or layer < model.config.num_hidden_layers - 1:
        return 0.0
    if inside not in anatomy.projections:
        return 1.0
    fused = len(anatomy.projections) == 1
    return 1 / 3 if fused else float(inside == anatomy.projections[0])  # the queries


def num_parameters(model: nn.Module) -> int:
    """Return the number of distinct parameters: tied matrices count once."""
    return sum(parameter.numel() for parameter in model.parameters())
