"""Options as JSON values, and the fingerprint of what determines a result.

An identity says what was chosen: a class by its tag or name, with those of its fields that are not
at their default. So a new field, at its default, changes no identity, nor does a new group whose
default choice has ``tag = ""``. One duty follows. Whoever changes a default, or what the same
settings compute, gives the class another tag, or raises the version beside it; and a new field's
default is a plain value, since what refers to another setting always counts.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any


def plain(options: Any) -> Any:
    """Return dataclasses, enums and containers as JSON values."""
    return _fold(options, lambda _, content: content)


def identity(options: Any) -> Any:
    """Return `plain`, with the class of each dataclass and the fields that make a difference."""
    return _fold(options, _identity)


def fingerprint(*values: Any, **parts: Any) -> str:
    """Return 16 hexadecimal digits that change whenever something that determines a result does.

    parts: by name; one that is None, or the choice of a group that changes nothing, is left out.
    """
    named = {name: identity(part) for name, part in parts.items()}
    kept = {name: part for name, part in named.items() if part not in (None, {"class": ""})}
    return _digits([identity(value) for value in values] + ([kept] if kept else []))


def counted(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a class's settings, as `identity` has them, that make a difference."""
    return {
        f.name: content[f.name]
        for f in dataclasses.fields(kind)
        if f.metadata.get("identity", True)
        and f.name in content
        and content[f.name] != identity(_default(f))
    }


def former_fingerprint(*values: Any) -> str:
    """Return the fingerprint that version 0.2 gave: every field counts, and the order of values."""
    return _digits([_fold(value, _former) for value in values])


def _digits(values: list[Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _identity(options: Any, content: dict[str, Any]) -> dict[str, Any]:
    tag = vars(type(options)).get("tag", type(options).__name__)
    return {"class": tag, **counted(options, content)}


def _former(options: Any, content: dict[str, Any]) -> dict[str, Any]:
    every = [f for f in dataclasses.fields(options) if f.metadata.get("identity", True) is True]
    return {**_identity(options, content), **{f.name: content[f.name] for f in every}}


def _default(f: dataclasses.Field[Any]) -> Any:
    """Return a field's default; what equals nothing where it must be given, or refers elsewhere."""
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    if f.default is dataclasses.MISSING:
        return object()
    return object() if str(f.default).startswith(("???", "${")) else f.default


def _fold(options: Any, node: Callable[[Any, dict[str, Any]], Any]) -> Any:
    """Return a tree of options as JSON values; node: what becomes of a class and its fields."""
    if dataclasses.is_dataclass(options):
        names = [f.name for f in dataclasses.fields(options)]
        return node(options, {name: _fold(getattr(options, name), node) for name in names})
    if isinstance(options, Mapping):
        return {str(key): _fold(value, node) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [_fold(value, node) for value in options]
    return options.name if isinstance(options, Enum) else options
