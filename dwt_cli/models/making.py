"""A randomly initialised model of the transformers library, from an architecture's options."""

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from dwt_cli.base.randomness import seed_for
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.options import Architecture


def make_model(options: Architecture, seed: int, purpose: str) -> PreTrainedModel:
    """Return a model in fp32 whose weights depend on (seed, purpose) alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, purpose, "weights"))
        return _made(options)


def outline(options: Architecture, device: torch.device | str = "meta") -> PreTrainedModel:
    """Return the model on the meta device (or, of fake tensors, on any): shapes without memory."""
    with torch.device(device), no_init_weights():
        model = _made(options)
    model.tie_weights()  # what initialising would have done
    return model


def _made(options: Architecture) -> PreTrainedModel:
    make = ANATOMIES[options.family.name].make
    assert make is not None, "`Family` has those that are made here"
    return make(options)
