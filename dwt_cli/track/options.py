"""Where a run is shown beside its own record."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from dwt_cli.track.dashboard import Dashboard

NOT_IN_A_PROJECT = re.compile(r"[/\\#?%:]")
"""A character that W&B refuses in the name of a project."""

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Columns and rows."""


@dataclass(frozen=True)
class Entry:
    """A folder as a dashboard lists it.

    config: the settings as JSON values. tables, summary: what the folder's own files lack.
    """

    folder: Path
    identity: str
    name: str
    config: Mapping[str, Any]
    tables: Mapping[str, Table] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Tracker:
    """A dashboard, or none; metrics.jsonl and the figures are always written."""

    def open(self, entry: Entry, say: Callable[[str], None]) -> "Dashboard":
        """Start to send a folder's record, until `Dashboard.finish` or the end of the context."""
        raise NotImplementedError

    def labelled(self, group: str, tags: Sequence[str]) -> "Tracker":
        """Return these options with more tags, and with the group unless they have their own."""
        return self


@dataclass
class NoTracker(Tracker):
    """No dashboard; ``python -m dwt_cli.track.wandb RUN_DIR`` sends a run later."""

    tag: ClassVar[str] = "Tracker"

    def open(self, entry: Entry, say: Callable[[str], None]) -> "Dashboard":
        from dwt_cli.track.dashboard import Dashboard

        return Dashboard(entry.folder, say)


@dataclass
class Wandb(Tracker):
    """Weights & Biases: online when a key is set, offline otherwise."""

    project: str = "dwt"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    log_model: bool = False

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for a project's name that W&B refuses."""
        if len(self.project) > 128 or NOT_IN_A_PROJECT.search(self.project):
            name = NOT_IN_A_PROJECT.sub("-", self.project)[:128]
            yield (
                f"{setting}.project={self.project}: W&B takes at most 128 characters, none of "
                f"/ \\ # ? % : among them; write {setting}.project={name}"
            )

    def open(self, entry: Entry, say: Callable[[str], None]) -> "Dashboard":
        from dwt_cli.track.dashboard import Dashboard

        return Dashboard.start(self, entry, say)

    def labelled(self, group: str, tags: Sequence[str]) -> "Wandb":
        return replace(self, group=self.group or group, tags=[*self.tags, *tags])
