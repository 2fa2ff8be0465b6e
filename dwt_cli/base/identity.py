"""Options as JSON values, and the fingerprint of what determines a result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from dwt_cli.base.options import UNLESS_DEFAULT


def plain(options: Any) -> Any:
    """Dataclasses, enums and containers as JSON values."""
    if dataclasses.is_dataclass(options):
        return {f.name: plain(getattr(options, f.name)) for f in dataclasses.fields(options)}
    if isinstance(options, Mapping):
        return {str(key): plain(value) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [plain(value) for value in options]
    return options.name if isinstance(options, Enum) else options


def identity(options: Any) -> Any:
    """`plain`, with the class of each dataclass and without what cannot change a result."""
    if dataclasses.is_dataclass(options):
        kept = [f for f in dataclasses.fields(options) if _counts(f, getattr(options, f.name))]
        return {
            "class": vars(type(options)).get("tag", type(options).__name__),
            **{f.name: identity(getattr(options, f.name)) for f in kept},
        }
    if isinstance(options, Mapping):
        return {str(key): identity(value) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [identity(value) for value in options]
    return plain(options)


def _counts(f: dataclasses.Field[Any], value: Any) -> bool:
    """Return whether a field with this value is part of an identity."""
    counts = f.metadata.get("identity", True)
    return bool(counts) and (counts != UNLESS_DEFAULT or value != f.default)


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change whenever something that determines a result does."""
    text = json.dumps([identity(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
