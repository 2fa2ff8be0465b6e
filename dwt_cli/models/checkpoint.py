"""Models in the hub's format: folders and names are opened, folders are written.

Weights are read from safetensors, or with torch's weights-only loading; code that comes with a
model runs only when ``trust_remote_code`` was set by hand.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError, first_line
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.options import Checkpoint, Head


class _Kind(NamedTuple):
    """Models with a head: the library's class and its configurations, and what they are called."""

    auto: Any
    configs: Any
    name: str
    classes: str


_KINDS = {
    Head.masked: _Kind(
        AutoModelForMaskedLM,
        MODEL_FOR_MASKED_LM_MAPPING,
        "masked language model",
        "*ForMaskedLM",
    ),
    Head.causal: _Kind(
        AutoModelForCausalLM,
        MODEL_FOR_CAUSAL_LM_MAPPING,
        "causal language model",
        "*ForCausalLM",
    ),
}


def located(setting: str, path: str) -> str:
    """Return what to open for a path: the folder, or the name on the hub.

    Raises `UserError` for a file, and for a path that no hub name looks like and nothing is at.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return str(place)
    if place.exists():
        raise UserError(f"{setting}={path} cannot be opened: it is a file; give its folder")
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        raise UserError(
            f"{setting}={path} cannot be opened: there is no such folder (looked in "
            f"{Path.cwd()}); give another, or a name on the hub"
        )
    return path


def open_config(
    setting: str, checkpoint: Checkpoint, head: Head, any_family: bool = False
) -> PreTrainedConfig:
    """Return the configuration of a checkpoint; `UserError` for a model without such a head.

    setting: what names its path, as in ``teacher.path``. any_family: its logits are enough, its
    anatomy need not be known.
    """
    named = f"{setting}={checkpoint.path}"
    path = located(setting, checkpoint.path)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=checkpoint.revision)
    except Exception as error:
        raise _unreadable(named, error) from error
    if not raw:
        raise _unreadable(named, "there is no config.json")
    if "auto_map" in raw and not checkpoint.trust_remote_code:
        role, _, name = setting.rpartition(".")
        consent = f"read it, then set {role}.trust_remote_code=true, or " if name == "path" else ""
        raise UserError(
            f"{named} comes with code of its own (auto_map in config.json), "
            f"which is not run: {consent}choose another model"
        )
    try:
        config = AutoConfig.from_pretrained(
            path, revision=checkpoint.revision, trust_remote_code=checkpoint.trust_remote_code
        )
    except Exception as error:
        raise _unreadable(named, error) from error
    kind = _KINDS[head]
    has_head = checkpoint.trust_remote_code or type(config) in kind.configs
    known = sorted(name for name, anatomy in ANATOMIES.items() if anatomy.predicts is head)
    if config.model_type not in known and not (any_family and has_head):
        raise UserError(
            f"{named} is a {config.model_type}: "
            + (
                f"here {kind.name}s of these types are trained on: "
                if has_head
                else f"it is no {kind.name}; among those that are known here are "
            )
            + f"{', '.join(known)}; choose one of them"
        )
    return config


def open_model(setting: str, checkpoint: Checkpoint, head: Head) -> PreTrainedModel:
    """Return a checkpoint's language model, in fp32; `UserError` for one without its head."""
    model, lacking = open_encoder(setting, checkpoint, head)
    if lacking:
        raise UserError(
            f"{setting}={checkpoint.path} lacks the weights {', '.join(lacking[:3])}: it was not "
            f"saved with its head; choose a checkpoint of a {_KINDS[head].classes} model"
        )
    return model


def open_encoder(
    setting: str, checkpoint: Checkpoint, head: Head
) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint's model, in fp32, and the weights of its head that it lacks."""
    named = f"{setting}={checkpoint.path}"
    try:
        model, report = _KINDS[head].auto.from_pretrained(
            located(setting, checkpoint.path),
            revision=checkpoint.revision,
            trust_remote_code=checkpoint.trust_remote_code,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable(named, error) from error
    opened: PreTrainedModel = model
    lacking = sorted(report["missing_keys"])
    if any(name.startswith(f"{opened.base_model_prefix}.") for name in lacking):
        raise UserError(
            f"{named} lacks the weights {', '.join(lacking[:3])}; choose a "
            f"checkpoint of a {_KINDS[head].classes} model"
        )
    return opened, lacking


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer in the hub's format."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def outline_of(
    config: PreTrainedConfig, head: Head, device: torch.device | str = "meta"
) -> PreTrainedModel:
    """Return the model of a configuration, as `dwt_cli.models.making.outline`: shapes alone."""
    with torch.device(device), no_init_weights():
        model: PreTrainedModel = _KINDS[head].auto.from_config(config)
    model.tie_weights()
    return model


def provenance(path: str, revision: str | None = None) -> dict[str, Any]:
    """Return what determines a checkpoint or a tokenizer: a folder's files, or a hub name."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path, "revision": revision}
    suffixes = (".json", ".txt", ".model", ".safetensors", ".bin")
    files = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
    return {"files": {file.name: file_sum(file) for file in files}}


def open_folder(folder: Path, head: Head) -> PreTrainedModel:
    """Return a model that this project saved, in fp32."""
    model: PreTrainedModel = _KINDS[head].auto.from_pretrained(folder, dtype=torch.float32)
    return model


def _unreadable(named: str, error: Exception | str) -> UserError:
    if "Weights only load failed" in str(error):
        return UserError(
            f"{named} cannot be opened: its weights are a pickle that may run "
            "code, or a torn one; choose a checkpoint with model.safetensors"
        )
    return UserError(
        f"{named} cannot be opened ({first_line(error)}); give a folder with "
        "config.json and model.safetensors, or a name on the hub"
    )
