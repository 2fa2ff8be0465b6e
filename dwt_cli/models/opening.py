"""Models that exist: folders and names in the hub's format.

Weights are read from safetensors, or with torch's weights-only loading; code that comes with a
model runs only when ``trust_remote_code`` was set by hand.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from dwt_cli.config import CheckpointTeacher
from dwt_cli.errors import UserError
from dwt_cli.models.anatomy import ANATOMIES

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


def open_config(teacher: CheckpointTeacher, setting: str = "teacher.path") -> PreTrainedConfig:
    """The configuration of a checkpoint; `UserError` when it cannot be used here.

    setting: what the user has named it with.
    """
    path = located(setting, teacher.path)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=teacher.revision)
    except Exception as error:
        raise _unreadable(setting, teacher.path, error) from error
    if not raw:
        raise _unreadable(setting, teacher.path, "there is no config.json")
    if "auto_map" in raw and not teacher.trust_remote_code:
        raise UserError(
            f"{setting}={teacher.path} comes with code of its own (auto_map in config.json), "
            f"which is not run: {_TRUST if setting == 'teacher.path' else ''}choose another model"
        )
    if raw.get("model_type") not in ANATOMIES and not teacher.trust_remote_code:
        raise _of_another_type(setting, teacher.path, raw.get("model_type"))
    try:
        config = AutoConfig.from_pretrained(
            path, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
    except Exception as error:
        raise _unreadable(setting, teacher.path, error) from error
    if config.model_type not in ANATOMIES:
        raise _of_another_type(setting, teacher.path, config.model_type)
    return config


def open_model(teacher: CheckpointTeacher) -> PreTrainedModel:
    """A checkpoint's masked language model, in fp32; `UserError` for one without its head."""
    model, lacking = open_encoder(teacher, "teacher.path")
    if lacking:
        raise UserError(
            f"teacher.path={teacher.path} lacks the weights {', '.join(lacking[:3])}: it was not "
            "saved with a masked-LM head; choose a checkpoint of a *ForMaskedLM model"
        )
    return model


def open_encoder(teacher: CheckpointTeacher, setting: str) -> tuple[PreTrainedModel, list[str]]:
    """A checkpoint's model, in fp32, and the weights of its masked-LM head that it lacks."""
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            located(setting, teacher.path),
            revision=teacher.revision,
            trust_remote_code=teacher.trust_remote_code,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable(setting, teacher.path, error) from error
    opened: PreTrainedModel = model
    lacking = sorted(report["missing_keys"])
    if any(name.startswith(f"{opened.base_model_prefix}.") for name in lacking):
        raise UserError(
            f"{setting}={teacher.path} lacks the weights {', '.join(lacking[:3])}; choose a "
            "checkpoint of a *ForMaskedLM model"
        )
    return opened, lacking


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


def _of_another_type(setting: str, path: str, model_type: object) -> UserError:
    return UserError(
        f"{setting}={path} is a {model_type}: masked language "
        f"models of these types are known: {', '.join(sorted(ANATOMIES))}; choose one of them"
    )


def _unreadable(setting: str, path: str, error: Exception | str) -> UserError:
    if "Weights only load failed" in str(error):
        return UserError(
            f"{setting}={path} cannot be opened: its weights are a pickle that may run "
            "code, or a torn one; choose a checkpoint with model.safetensors"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    return UserError(
        f"{setting}={path} cannot be opened ({reason}); give a folder with "
        "config.json and model.safetensors, or a name on the hub"
    )
