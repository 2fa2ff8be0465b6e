"""The folder of config groups: the choices, and the comments at the head of their files."""

from pathlib import Path

import yaml


def settings_folder() -> Path:
    """Return ``conf/``: inside an installed package, or at the top of a clone."""
    return _folder("conf")


def sweeps_folder() -> Path:
    """Return ``sweeps/``, in the same manner."""
    return _folder("sweeps")


def _folder(name: str) -> Path:
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def sweeps() -> list[str]:
    """Return the studies that come with the project, by name."""
    folder = sweeps_folder()
    return sorted(path.stem for path in folder.glob("*.yaml") if is_study(folder, path.stem))


def is_study(folder: Path, name: str) -> bool:
    """Return whether a primary config of this name in a folder begins with ``study``."""
    try:
        content = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return False  # Hydra reports what is wrong with it
    defaults = content.get("defaults") if isinstance(content, dict) else None
    return isinstance(defaults, list) and "study" in defaults


def groups() -> dict[str, list[str]]:
    """Return the choices of every config group, both in alphabetical order."""
    found: dict[str, list[str]] = {}
    for path in sorted(settings_folder().glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def about(group: str, choice: str) -> str:
    """Return the comment at the head of a choice's file."""
    lines = []
    for line in (settings_folder() / group / f"{choice}.yaml").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def defaults(primary: str = "config") -> dict[str, str]:
    """Return the choice of every group that a bare command makes, in its primary config's order."""
    content = yaml.safe_load((settings_folder() / f"{primary}.yaml").read_text("utf-8"))
    chosen: dict[str, str] = {}
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            chosen |= {key.split()[-1]: choice for key, choice in entry.items() if "/" not in key}
        elif entry not in ("_self_", primary) and "/" not in entry:
            chosen |= defaults(entry)
    return chosen


def schema(group: str, choice: str) -> str | None:
    """Return the schema that a choice extends, directly or through another choice of its group."""
    content = yaml.safe_load((settings_folder() / group / f"{choice}.yaml").read_text("utf-8"))
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            for key, name in entry.items():
                if key == f"/schema/{group}@_here_":
                    return str(name)
        elif entry != "_self_" and (found := schema(group, entry)):
            return found
    return None
