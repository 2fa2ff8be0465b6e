"""The settings of a decoder without which its teacher's weights would mean something else."""

from transformers import PreTrainedConfig

from dwt_cli.distill.remap import depth
from dwt_cli.distill.remap.options import FromTeacher
from dwt_cli.models.anatomy import ANATOMIES, head_size, is_decoder


def adopt(ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher) -> None:
    """Give a decoder's configuration what its teacher's weights mean: settings without a tensor.

    A head's size too where the teacher's is not width / heads, and how each layer attends.
    """
    if ours.model_type != theirs.model_type or not is_decoder(ours):
        return  # `sources_of` refuses what differs
    keys = [*ANATOMIES[ours.model_type].same]
    if head_size(theirs) * theirs.num_attention_heads != theirs.hidden_size:
        keys.append("head_dim")
    for key in keys:
        setattr(ours, key, getattr(theirs, key))
    if kinds := getattr(theirs, "layer_types", None):
        sources = depth.RULES[options.depth](ours.num_hidden_layers, theirs.num_hidden_layers)
        ours.layer_types = [
            own if origin is None else kinds[origin]
            for own, origin in zip(ours.layer_types, sources, strict=True)
        ]
