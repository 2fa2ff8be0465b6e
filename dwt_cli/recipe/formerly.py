"""The fingerprints that version 0.2 gave to trainings, by which older ones are found.

Then every field counted, the parts of a fingerprint had an order and no names, a text had the
identity of its tokenizer's whole folder, and held-out text was masked as the task says. A run
whose held-out masks are others now has no fingerprint here: its numbers cannot be compared.
Nor has what knows no masks at all, which that version could not make.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dwt_cli.base.identity import former_fingerprint


def of(kind: str, parts: Mapping[str, Any], **before: Any) -> str | None:
    """Return the fingerprint of a training; None for other masks or text, and a second stage.

    parts: what determines it, by name, in the order of old. before: the fingerprints among them.
    """
    options = parts["eval"]
    if before["text"] is None:
        return None
    if parts["task"].on_heldout(options.mask_ratio) != parts["task"] or parts.get("after"):
        return None
    usual = replace(options, mask_ratio=type(options).mask_ratio)  # the ratio was the task's
    known = {**parts, "eval": usual, **before, "evaluated_on": None}
    several = ("weights", "teachers")
    listed = [(part or []) if name in several else [part] for name, part in known.items()]
    values = [value for part in listed for value in part]
    return former_fingerprint(kind, *(value for value in values if value is not None))
