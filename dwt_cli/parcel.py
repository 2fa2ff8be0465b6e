"""A typed run as text and back: how it travels to other processes. Never a pickle."""

import json
from typing import Any

from omegaconf import OmegaConf

from dwt_cli.config import SCHEMAS, SEVERAL, Run, plain

_KINDS = {node.__name__: node for nodes in SCHEMAS.values() for node in nodes.values()}


def packed(run: Run) -> str:
    """JSON from which `unpacked` makes the same run."""
    content = plain(run)
    for group in SCHEMAS:
        chosen = getattr(run, group)
        content[group] = (
            {name: _packed(each) for name, each in chosen.items()}
            if group in SEVERAL
            else _packed(chosen)
        )
    return json.dumps(content)


def unpacked(text: str) -> Run:
    """The run that was packed, with the classes that it had."""
    content = json.loads(text)
    for group in SCHEMAS:
        chosen = content[group]
        content[group] = (
            {name: _unpacked(each) for name, each in chosen.items()}
            if group in SEVERAL
            else _unpacked(chosen)
        )
    run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Run), content))
    assert isinstance(run, Run)
    return run


def _packed(options: Any) -> list[Any]:
    return [type(options).__name__, plain(options)]


def _unpacked(parcel: list[Any]) -> Any:
    kind, values = parcel
    return OmegaConf.merge(OmegaConf.structured(_KINDS[kind]), values)
