"""Where a checkpoint lies, and what determines it. Opens none, and imports no torch."""

from pathlib import Path
from typing import Any

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError


def located(setting: str, path: str) -> str:
    """Return what to open for a path: the folder, or the name on the hub.

    A run's folder stands for the model in it. Raises `UserError` for a file, and for a path that no
    hub name looks like and nothing is at.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return str(_with_model(place))
    if place.exists():
        raise UserError(f"{setting}={path} cannot be opened: it is a file; give its folder")
    is_below = "/" in path and place.parent.is_dir()  # as runs/NAME, which a hub name could be too
    if is_below or path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        raise UserError(
            f"{setting}={path} cannot be opened: there is no such folder (looked in "
            f"{Path.cwd()}); give another, or a name on the hub"
        )
    return path


def _with_model(folder: Path) -> Path:
    inner = folder / "model"
    is_around = (inner / "config.json").is_file() and not (folder / "config.json").is_file()
    return inner if is_around else folder


def provenance(path: str, revision: str | None = None) -> dict[str, Any]:
    """Return what determines a checkpoint or a tokenizer: a folder's files, or a hub name."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path, "revision": revision}
    suffixes = (".json", ".txt", ".model", ".safetensors", ".bin")
    files = sorted(file for file in _with_model(folder).iterdir() if file.suffix in suffixes)
    return {"files": {file.name: file_sum(file) for file in files}}
