"""Models of the transformers library that are made: of options, or a classifier of a model."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from dwt_cli.base.randomness import seed_for
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.options import Architecture, Classes, Head, Predicts

AUTO: dict[Head, Any] = {Head.masked: AutoModelForMaskedLM, Head.causal: AutoModelForCausalLM}
"""The library's class of models with a head over the vocabulary."""


def auto(head: Predicts) -> Any:
    """Return the library's class of models with a head."""
    return AutoModelForSequenceClassification if isinstance(head, Classes) else AUTO[head]


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
    config: PreTrainedConfig, head: Predicts, device: torch.device | str = "meta"
) -> PreTrainedModel:
    """Return the model on the meta device (or, of fake tensors, on any): shapes without memory."""
    with torch.device(device), no_init_weights():
        model: PreTrainedModel = auto(head).from_config(config)
    model.tie_weights()  # what initialising would have done
    return model


def classifier_config(model: PreTrainedModel, num_outputs: int) -> PreTrainedConfig:
    """Return the configuration of `make_classifier`."""
    config = copy.deepcopy(model.config)
    config.num_labels = num_outputs
    return config


def make_classifier(model: PreTrainedModel, num_outputs: int, seed: int) -> PreTrainedModel:
    """Return the library's classifier of the family, in fp32, on a copy of the model's weights.

    What the two do not share is initialised from ``seed``: the last layer, and whatever a family
    puts before it. num_outputs: classes, or 1 for a regression.
    """
    config = classifier_config(model, num_outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier", "weights"))
        classifier: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32
        )
    ours, theirs = classifier.state_dict(), model.state_dict()
    shared = {name: theirs[name] for name in ours if name in theirs}
    classifier.load_state_dict(shared, strict=False)
    prefix = f"{classifier.base_model_prefix}."
    new = [name for name in ours if name not in shared and name.startswith(prefix)]
    assert all(".pooler." in name for name in new), f"left to chance: {new[:3]}"
    return classifier
