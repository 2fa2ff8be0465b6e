"""A classifier made of a masked language model: its encoder, and a head that is new."""

import copy

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from dwt_cli.base.randomness import seed_for


def make_classifier(model: PreTrainedModel, num_outputs: int, seed: int) -> PreTrainedModel:
    """Return the library's classifier of the family, in fp32, on a copy of the model's weights.

    What the two do not share is initialised from ``seed``: the last layer, and whatever a family
    puts before it. num_outputs: classes, or 1 for a regression.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = num_outputs
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


def takes_segments(model: PreTrainedModel) -> bool:
    """Return whether the model tells a first text from a second one by more than position."""
    return getattr(model.config, "type_vocab_size", 0) > 1
