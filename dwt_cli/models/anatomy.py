"""The families of models whose parts are known here, and their look-up."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from dwt_cli.models.families import bert, distilbert, modernbert, roberta
from dwt_cli.models.families.parts import Anatomy

ANATOMIES: dict[str, Anatomy] = {
    "bert": bert.ANATOMY,
    "roberta": roberta.ANATOMY,
    "distilbert": distilbert.ANATOMY,
    "modernbert": modernbert.ANATOMY,
}
"""By the hub's name of the model type."""


def is_known(config: PreTrainedConfig) -> bool:
    """Return whether a family's parts are known here; of any other only the logits are."""
    return config.model_type in ANATOMIES


def anatomy_of(model: nn.Module) -> Anatomy:
    """Return the anatomy of a transformers model of a known family."""
    config: Any = model.config
    return ANATOMIES[config.model_type]


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a transformers model of a known family."""
    layers = model.get_submodule(anatomy_of(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def num_positions(config: PreTrainedConfig) -> int:
    """Return the longest block that a model of this configuration, of a known family, reads."""
    return ANATOMIES[config.model_type].num_positions(config)
