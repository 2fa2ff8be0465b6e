"""The options of the dashboard."""

from dataclasses import dataclass, field


@dataclass
class Tracker:
    """No dashboard; metrics.jsonl and the figures are always written."""


@dataclass
class Wandb(Tracker):
    """Weights & Biases: online when a key is set, offline otherwise."""

    project: str = "dwt"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    log_model: bool = False
