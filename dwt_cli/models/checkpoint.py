"""Models in the hub's format: folders and names are opened, folders are written.

Weights are read from safetensors, or with torch's weights-only loading; code that comes with a
model runs only when ``trust_remote_code`` was set by hand.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from dwt_cli.base.errors import UserError
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.options import Checkpoint

_TRUST = "read it, then set teacher.trust_remote_code=true, or "


def located(setting: str, path: str) -> str:
    """What to open for a path: the folder, or the name on the hub.

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


def open_config(setting: str, checkpoint: Checkpoint, any_family: bool = False) -> PreTrainedConfig:
    """The configuration of a checkpoint; `UserError` when it is no masked language model.

    setting: what names its path, as in ``teacher.path``. any_family: its logits are enough, its
    anatomy need not be known.
    """
    said = f"{setting}={checkpoint.path}"
    path = located(setting, checkpoint.path)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=checkpoint.revision)
    except Exception as error:
        raise _unreadable(said, error) from error
    if not raw:
        raise _unreadable(said, "there is no config.json")
    if "auto_map" in raw and not checkpoint.trust_remote_code:
        role, _, name = setting.rpartition(".")
        consent = f"read it, then set {role}.trust_remote_code=true, or " if name == "path" else ""
        raise UserError(
            f"{said} comes with code of its own (auto_map in config.json), "
            f"which is not run: {consent}choose another model"
        )
    try:
        config = AutoConfig.from_pretrained(
            path, revision=checkpoint.revision, trust_remote_code=checkpoint.trust_remote_code
        )
    except Exception as error:
        raise _unreadable(said, error) from error
    has_head = checkpoint.trust_remote_code or type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if config.model_type not in ANATOMIES and not (any_family and has_head):
        raise UserError(
            f"{said} is a {config.model_type}: "
            + (
                "here masked language models of these types are trained on: "
                if has_head
                else "it is no masked language model; among those that are known here are "
            )
            + f"{', '.join(sorted(ANATOMIES))}; choose one of them"
        )
    return config


def open_model(setting: str, checkpoint: Checkpoint) -> PreTrainedModel:
    """A checkpoint's masked language model, in fp32; `UserError` for one without its head."""
    model, lacking = open_encoder(setting, checkpoint)
    if lacking:
        raise UserError(
            f"{setting}={checkpoint.path} lacks the weights {', '.join(lacking[:3])}: it was not "
            "saved with a masked-LM head; choose a checkpoint of a *ForMaskedLM model"
        )
    return model


def open_encoder(setting: str, checkpoint: Checkpoint) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint's model, in fp32, and the weights of its masked-LM head that it lacks."""
    said = f"{setting}={checkpoint.path}"
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            located(setting, checkpoint.path),
            revision=checkpoint.revision,
            trust_remote_code=checkpoint.trust_remote_code,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable(said, error) from error
    opened: PreTrainedModel = model
    lacking = sorted(report["missing_keys"])
    if any(name.startswith(f"{opened.base_model_prefix}.") for name in lacking):
        raise UserError(
            f"{said} lacks the weights {', '.join(lacking[:3])}; choose a "
            "checkpoint of a *ForMaskedLM model"
        )
    return opened, lacking


def save_model(model: PreTrainedModel, corpus: Corpus, folder: Path) -> None:
    """Model and tokenizer in the hub's format."""
    model.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def outline_of(config: PreTrainedConfig, device: torch.device | str = "meta") -> PreTrainedModel:
    """The model of a configuration, as `dwt_cli.models.making.outline`: shapes without memory."""
    with torch.device(device), no_init_weights():
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    model.tie_weights()
    return model


def provenance(path: str, revision: str | None = None) -> dict[str, Any]:
    """What determines a checkpoint or a tokenizer: a folder's contents, or a name on the hub."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path, "revision": revision}
    sums = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".txt", ".model", ".safetensors", ".bin"):
            with file.open("rb") as opened:
                sums[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"files": sums}


def open_folder(folder: Path) -> PreTrainedModel:
    """A model that this project saved, in fp32."""
    model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    return model


def _unreadable(said: str, error: Exception | str) -> UserError:
    if "Weights only load failed" in str(error):
        return UserError(
            f"{said} cannot be opened: its weights are a pickle that may run "
            "code, or a torn one; choose a checkpoint with model.safetensors"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    return UserError(
        f"{said} cannot be opened ({reason}); give a folder with "
        "config.json and model.safetensors, or a name on the hub"
    )
