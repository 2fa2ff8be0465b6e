"""Options as JSON values, and the fingerprint of what determines a result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from dwt_cli.base.options import UNLESS_DEFAULT, fold


def plain(options: Any) -> Any:
    """Return dataclasses, enums and containers as JSON values."""
    return fold(options, lambda _, content: content, _name)


def identity(options: Any) -> Any:
    """Return `plain`, with the class of each dataclass and without what cannot change a result."""
    return fold(options, _identity, _name)


def _identity(options: Any, content: dict[str, Any]) -> dict[str, Any]:
    kept = [f.name for f in dataclasses.fields(options) if _counts(f, getattr(options, f.name))]
    name = vars(type(options)).get("tag", type(options).__name__)
    return {"class": name, **{field: content[field] for field in kept}}


def counted(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a dataclass's settings, as `plain` has them, that are part of an identity."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    return {name: value for name, value in content.items() if _counts(fields[name], value)}


def _name(value: Any) -> Any:
    return value.name if isinstance(value, Enum) else value


def _counts(f: dataclasses.Field[Any], value: Any) -> bool:
    """Return whether a field with this value is part of an identity."""
    counts = f.metadata.get("identity", True)
    return bool(counts) and (counts != UNLESS_DEFAULT or _name(value) != _name(f.default))


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change whenever something that determines a result does."""
    text = json.dumps([identity(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
