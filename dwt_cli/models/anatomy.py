"""The families of models whose parts are known here, and their look-up."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from dwt_cli.base.errors import UserError
from dwt_cli.models.families import bert, distilbert, gemma, gpt2, llama, modernbert, roberta
from dwt_cli.models.families.parts import Anatomy
from dwt_cli.models.options import Head

ANATOMIES: dict[str, Anatomy] = {
    "bert": bert.ANATOMY,
    "roberta": roberta.ANATOMY,
    "xlm-roberta": roberta.ANATOMY,
    "distilbert": distilbert.ANATOMY,
    "modernbert": modernbert.ANATOMY,
    "qwen3": llama.QWEN3,
    "llama": llama.LLAMA,
    "gpt2": gpt2.ANATOMY,
    "qwen2": llama.QWEN2,
    "olmo2": llama.OLMO2,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
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
    """Return the longest block that a model reads; `UserError` for a family that is not known."""
    if not is_known(config):
        raise UserError(
            f"model={config.name_or_path}: how much a {config.model_type} reads is not known here; "
            f"choose a model of type {', '.join(sorted(ANATOMIES))}"
        )
    return ANATOMIES[config.model_type].num_positions(config)


def is_decoder(config: PreTrainedConfig) -> bool:
    """Return whether a model of a known family predicts each next token."""
    return is_known(config) and ANATOMIES[config.model_type].predicts is Head.causal


def head_size(config: PreTrainedConfig) -> int:
    """Return the width of one head of attention."""
    of_head: int | None = getattr(config, "head_dim", None)
    return of_head or config.hidden_size // config.num_attention_heads


def num_heads(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the number of heads, and how many keys and values they have."""
    there = config.num_attention_heads
    return there, getattr(config, "num_key_value_heads", None) or there


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a matrix product; GPT-2's matrices are stored transposed."""
    return isinstance(module, nn.Linear | Conv1D)
