"""A typed run as text and back, to hand it to other processes. Never a pickle."""

import dataclasses
import json
from enum import Enum
from pkgutil import resolve_name
from typing import Any

from dwt_cli.config.run import Run

_CLASS, _MEMBER = "__class__", "__member__"


def packed(run: Run) -> str:
    """Return JSON from which `unpacked` makes the same run."""
    return json.dumps(run, default=_as_dict)


def unpacked(text: str) -> Run:
    """Return the run that was packed, with its classes; a tuple comes back as a list."""
    run = json.loads(text, object_hook=_from_dict)
    assert isinstance(run, Run)
    return run


def _as_dict(value: Any) -> dict[str, Any]:
    kind = {_CLASS: f"{type(value).__module__}:{type(value).__qualname__}"}
    if isinstance(value, Enum):
        return kind | {_MEMBER: value.name}
    return kind | {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _from_dict(content: dict[str, Any]) -> Any:
    if _CLASS not in content:
        return content
    name = content.pop(_CLASS)
    assert name.startswith("dwt_cli."), "what is packed are options of this package"
    kind = resolve_name(name)
    return kind[content[_MEMBER]] if issubclass(kind, Enum) else kind(**content)
