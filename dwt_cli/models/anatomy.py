"""The families of models whose parts are known here, and their look-up."""

from torch import nn
from transformers import PreTrainedConfig

from dwt_cli.base.errors import UserError
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
    """Return a transformers model's anatomy; `UserError` for a family that is not known here."""
    model_type = str(getattr(model.config, "model_type", "?"))
    if model_type not in ANATOMIES:
        raise UserError(
            f"model type {model_type!r} is not known here: use one of "
            f"{', '.join(sorted(ANATOMIES))}"
        )
    return ANATOMIES[model_type]


def num_positions(config: PreTrainedConfig) -> int:
    """Return the longest block that a model of this configuration, of a known family, reads."""
    return ANATOMIES[config.model_type].num_positions(config)
