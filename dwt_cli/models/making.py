"""Models of the transformers library that are made from a configuration or from options."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from dwt_cli.base.randomness import seed_for
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.options import Architecture, Head

AUTO: dict[Head, Any] = {Head.masked: AutoModelForMaskedLM, Head.causal: AutoModelForCausalLM}
"""The library's class of models with a head."""


def config_of(options: Architecture) -> PreTrainedConfig:
    """Return the configuration of the model that options describe."""
    configure = ANATOMIES[options.family.name].configure
    assert configure is not None, "`Family` has those that are made here"
    return configure(options)


def make_model(
    options: Architecture, seed: int, purpose: str, config: PreTrainedConfig | None = None
) -> PreTrainedModel:
    """Return a model in fp32 whose weights depend on (seed, purpose) alone.

    config: that of the options, or one that was made of it.
    """
    config, head = config or config_of(options), options.family.predicts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, purpose, "weights"))
        model: PreTrainedModel = AUTO[head].from_config(config)
    return model


def outline(
    config: PreTrainedConfig, head: Head, device: torch.device | str = "meta"
) -> PreTrainedModel:
    """Return the model on the meta device (or, of fake tensors, on any): shapes without memory."""
    with torch.device(device), no_init_weights():
        model: PreTrainedModel = AUTO[head].from_config(config)
    model.tie_weights()  # what initialising would have done
    return model
