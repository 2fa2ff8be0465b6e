"""The model card: what the saved student is, from the summary and its task."""

from collections.abc import Mapping
from typing import Any

import yaml

from dwt_cli.base.templates import filled
from dwt_cli.data.options import LICENCES
from dwt_cli.tasks.options import Task


def model_card(summary: Mapping[str, Any], config: Mapping[str, Any], task: Task) -> str:
    """Return README.md of the model folder, with the hub's metadata on top."""
    parts = dict(config.get("data") or {}).get("parts") or ()
    licences = {p["dataset"]: LICENCES[p["dataset"]] for p in parts if p["dataset"] in LICENCES}
    head = {
        "library_name": "transformers",
        "pipeline_tag": task.pipeline_tag,
        "language": "en",
        **({"datasets": [*licences]} if licences else {}),
        "tags": [task.head.tag, "distillation-from-weak-teacher"],
    }
    return filled(
        __package__,
        "card.md.j2",
        summary={"samples": [], **summary},
        licences=licences,
        task=task,
        head=yaml.safe_dump(head, sort_keys=False).strip(),
        settings=yaml.safe_dump(dict(config), sort_keys=False).strip(),
    )
