"""The folder of config groups: the choices, and the comments at the head of their files."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[1]
SETTINGS, SWEEPS = (
    inside if (inside := _PACKAGE / name).is_dir() else _PACKAGE.parent / name
    for name in ("conf", "sweeps")
)
"""The folders inside an installed package, or at the top of a clone."""


def sweeps() -> list[str]:
    """Return the studies that come with the project, by name."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml") if is_study(path.stem))


def chains() -> list[str]:
    """Return the chains that come with the project, by name."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml") if is_chain(path.stem))


def primaries() -> list[str]:
    """Return the studies and the chains, by name."""
    return [*sweeps(), *chains()]


def is_study(name: str | None, folder: str | None = None) -> bool:
    """Return whether a primary config is that of a study, which has arms and lengths."""
    return _begins_with("study", name, folder)


def is_chain(name: str | None, folder: str | None = None) -> bool:
    """Return whether a primary config is that of a chain, which has stages."""
    return _begins_with("chain", name, folder)


def foreign(name: str, folder: str | None = None) -> list[str]:
    """Return what the file of a chain sets beside the chain, which no stage would have."""
    return [key for key in _content(name, folder) if key not in ("defaults", "chain")]


def _begins_with(base: str, name: str | None, folder: str | None) -> bool:
    defaults = _content(name, folder).get("defaults")
    return isinstance(defaults, list) and base in defaults


def _content(name: str | None, folder: str | None) -> dict[str, Any]:
    """Return what a primary config says; nothing where Hydra will report what is wrong with it."""
    file = Path(folder or SWEEPS) / f"{(name or '').removesuffix('.yaml')}.yaml"
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def state() -> list[tuple[str, int, int]]:
    """Return path, time of the last change in ns and size of every settings file of ours."""
    found = []
    for path in sorted(
        [*SETTINGS.glob("*.yaml"), *SETTINGS.glob("*/*.yaml"), *SWEEPS.glob("*.yaml")]
    ):
        with suppress(FileNotFoundError):  # an editor's lock is a link to nowhere
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return found


def groups() -> dict[str, list[str]]:
    """Return the choices of every config group, both in alphabetical order."""
    found: dict[str, list[str]] = {}
    for path in sorted(SETTINGS.glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def about(group: str, choice: str) -> str:
    """Return the comment at the head of a choice's file."""
    lines = []
    for line in (SETTINGS / group / f"{choice}.yaml").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def defaults(primary: str = "config") -> dict[str, str]:
    """Return the choice of every group that a bare command makes, in its primary config's order."""
    content = yaml.safe_load((SETTINGS / f"{primary}.yaml").read_text("utf-8"))
    chosen: dict[str, str] = {}
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            chosen |= {key.split()[-1]: choice for key, choice in entry.items() if "/" not in key}
        elif entry not in ("_self_", primary) and "/" not in entry:
            chosen |= defaults(entry)
    return chosen


def schema(group: str, choice: str) -> str | None:
    """Return the schema that a choice extends, directly or through another choice of its group."""
    content = yaml.safe_load((SETTINGS / group / f"{choice}.yaml").read_text("utf-8"))
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            for key, name in entry.items():
                if key == f"/schema/{group}@_here_":
                    return str(name)
        elif entry != "_self_" and (found := schema(group, entry)):
            return found
    return None
