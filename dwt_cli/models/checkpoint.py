"""Models in the hub's format: folders and names are opened, folders are written.

Weights are read from safetensors, or with torch's weights-only loading; code that comes with a
model runs only when ``trust_remote_code`` was set by hand.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from dwt_cli.base.errors import UserError, first_line
from dwt_cli.models.anatomy import ANATOMIES, is_known, num_positions
from dwt_cli.models.making import AUTO
from dwt_cli.models.options import Checkpoint, Head, located

_TYPES = {
    Head.masked: MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    Head.causal: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
"""The types of models that the library has with a head."""


def sizes(checkpoint: Checkpoint) -> tuple[int, int | None, int | None] | None:
    """Return the entries of a checkpoint's vocabulary, and the longest block that it reads.

    Last the longest that it was trained on, which its tokenizer says. None: a length that is not
    known here, and all of what `open_config` refuses.
    """
    try:
        path, revision = located("", checkpoint.path), checkpoint.revision
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        trained: int | None = get_tokenizer_config(path, revision=revision).get("model_max_length")
        return config.vocab_size, num_positions(config) if is_known(config) else None, trained
    except Exception:  # whatever the library says to files that it cannot read
        return None


def longer_than_trained(named: str, trained: int | None, block_length: int) -> list[str]:
    """Return the warning for a model that reads longer blocks than it was trained on, if any."""
    if trained is None or trained >= block_length:
        return []
    return [
        f"warning: {named} was trained on blocks of {trained} tokens and has not learned the "
        f"positions after them; data.block_length={block_length}"
    ]


def open_config(
    setting: str, checkpoint: Checkpoint, head: Head, any_family: bool = False
) -> PreTrainedConfig:
    """Return the configuration of a checkpoint; `UserError` for a model without such a head.

    setting: what names its path, as in ``teacher.path``. any_family: its logits are enough, its
    anatomy need not be known.
    """
    named, path = f"{setting}={checkpoint.path}", located(setting, checkpoint.path)
    with _opening(named):
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=checkpoint.revision)
        if not raw:
            raise FileNotFoundError("there is no config.json")
    if "auto_map" in raw and not checkpoint.trust_remote_code:
        role, _, name = setting.rpartition(".")
        consent = f"read it, then set {role}.trust_remote_code=true, or " if name == "path" else ""
        raise UserError(
            f"{named} comes with code of its own (auto_map in config.json), "
            f"which is not run: {consent}choose another model"
        )
    with _opening(named):
        config = AutoConfig.from_pretrained(
            path, revision=checkpoint.revision, trust_remote_code=checkpoint.trust_remote_code
        )
    sees_all = head is Head.causal and getattr(config, "use_bidirectional_attention", None)
    has_head = checkpoint.trust_remote_code or (
        config.model_type in _TYPES[head] and not _predicts_another_thing(raw, config, head)
    )
    known = sorted(name for name, anatomy in ANATOMIES.items() if anatomy.predicts is head)
    if sees_all or (config.model_type not in known and not (any_family and has_head)):
        kind = f"{head.value} language model"
        why = (
            f"here {kind}s of these types are trained on:"
            if has_head and not sees_all
            else f"it is no {kind}; among those that are known here are"
        )
        raise UserError(
            f"{named} is a {config.model_type}: {why} {', '.join(known)}; choose one of them"
        )
    return config


def _predicts_another_thing(raw: dict[str, Any], config: PreTrainedConfig, head: Head) -> bool:
    """Return whether a model of a type that has both heads was saved with the other one.

    The library would open it all the same: a masked model, asked for next tokens, has seen them.
    """
    (other,) = (each for each in Head if each is not head)
    saved = set(raw.get("architectures") or ())
    ours, theirs = (_TYPES[each].get(config.model_type) for each in (head, other))
    if theirs in saved:
        return ours not in saved
    return head is Head.causal and theirs is not None and not getattr(config, "is_decoder", True)


def open_model(
    setting: str, checkpoint: Checkpoint, head: Head, needs_head: bool = True
) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint's language model, in fp32, and the weights of its head that it lacks.

    They are drawn anew. needs_head: raise `UserError` for them, as for any other weights.
    """
    named, path = f"{setting}={checkpoint.path}", located(setting, checkpoint.path)
    with _opening(named):
        model, report = AUTO[head].from_pretrained(
            path,
            revision=checkpoint.revision,
            trust_remote_code=checkpoint.trust_remote_code,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
        )
    lacking, encoder = sorted(report["missing_keys"]), f"{model.base_model_prefix}."
    if missed := [name for name in lacking if needs_head or name.startswith(encoder)]:
        raise UserError(
            f"{named} lacks the weights {', '.join(missed[:3])}; choose a checkpoint of a "
            f"{AUTO[head].__name__.replace('AutoModel', '*')} model, saved with its head; "
            "without one it teaches by features alone (objective=minilmv2, remap.head=false, "
            "no alpha=overtake or crossover)"
        )
    return model, lacking


def open_folder(folder: Path, head: Head) -> PreTrainedModel:
    """Return a model that this project saved, in fp32."""
    model: PreTrainedModel = AUTO[head].from_pretrained(folder, dtype=torch.float32)
    return model


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer in the hub's format.

    A decoder says which ids of the tokenizer begin, end and fill up a text.
    """
    if model.can_generate():
        for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
            number = getattr(tokenizer, role)
            for config in (model.config, model.generation_config):
                if number is not None and not isinstance(getattr(config, role), list):
                    setattr(config, role, number)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _opening(named: str) -> Iterator[None]:
    """Raise `UserError` for whatever the library says to files that it cannot read."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{named} cannot be opened: its weights are a pickle that may run "
            "code, or a torn one; choose a checkpoint with model.safetensors"
            if "Weights only load failed" in str(error)
            else f"{named} cannot be opened ({first_line(error)}); give a folder with "
            "config.json and model.safetensors, or a name on the hub"
        ) from error
