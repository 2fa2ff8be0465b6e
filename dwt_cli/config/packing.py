"""A typed run as text and back, to hand it to other processes. Never a pickle."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from dwt_cli.base.options import fold
from dwt_cli.config.run import SCHEMAS, Evaluation, Run, Study


def _classes(*kinds: Any) -> Iterator[type]:
    """Yield the dataclasses and enums in type hints, and those in their fields."""
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            yield from _classes(*typing.get_type_hints(kind).values())
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, Enum)):
            yield kind
        else:
            yield from _classes(*typing.get_args(kind))


_CHOICES = [kind for choices in SCHEMAS.values() for kind in choices.values()]
_CLASSES = {kind.__name__: kind for kind in _classes(Run, Evaluation, Study, *_CHOICES)}
_CLASS, _MEMBER = "class", "member"


def packed(run: Run) -> str:
    """Return JSON from which `unpacked` makes the same run."""

    def leaf(value: Any) -> Any:
        is_choice = isinstance(value, Enum)
        return {_CLASS: type(value).__name__, _MEMBER: value.name} if is_choice else value

    return json.dumps(
        fold(run, lambda each, content: {_CLASS: type(each).__name__, **content}, leaf)
    )


def unpacked(text: str) -> Run:
    """Return the run that was packed, with its classes; a tuple comes back as a list."""
    run = _unpacked(json.loads(text))
    assert isinstance(run, Run)
    return run


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    content = {key: _unpacked(each) for key, each in value.items() if key != _CLASS}
    if _CLASS not in value:
        return content
    kind = _CLASSES[value[_CLASS]]
    return kind[content[_MEMBER]] if issubclass(kind, Enum) else kind(**content)
