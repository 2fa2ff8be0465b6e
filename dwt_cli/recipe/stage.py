"""A stage of a recipe, and where it is carried out."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.track.display import Display
from dwt_cli.track.summary import Facts

if TYPE_CHECKING:  # what is not carried out needs no torch
    from dwt_cli.base.machine import Machine
    from dwt_cli.base.ranks import Ranks

FACTS = "facts.json"

Done = dict[str, Any]
"""The artifacts of the stages that are done, by the stages' names."""


class Stage(ABC):
    """A step from options to an artifact. It holds values alone: nothing is opened to make one.

    name: its own among the stages of a recipe. kind: of its artifact in the cache, if it is there.
    word: the first of its fingerprint. grows: whether each run may add to the artifact.
    """

    name: str
    grows: ClassVar[bool] = False
    kind: ClassVar[str | None] = None
    word: ClassVar[str]

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the artifact, by name: own options, and earlier stages' fingerprints."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> str:
        """The fingerprint of what determines the artifact."""
        return fingerprint(self.word, **self.parts)

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of its training, as far as ``done`` lets them be known; else None."""
        return 0.0

    def cost_beyond(self, asked: dict[str, dict[int, int]]) -> float | None:
        """Return the cost in a study whose earlier runs have ``asked`` for so much, and note it.

        asked: blocks by artifact and seed, of what grows; whatever does not is made once.
        """
        return self.cost({})

    @property
    def formerly(self) -> str | None:
        """The fingerprint of version 0.2, if what it stands for is the same; else None."""
        return None

    def place(self, cache: Cache) -> Path:
        """Return where the cache has the artifact, or shall have it."""
        assert self.kind is not None, "it is not kept in the cache"
        return cache.place(self.kind, cache.kept_as(self.kind, self.identity, self.formerly))

    def is_kept(self, cache: Cache) -> bool:
        """Return whether the cache has its artifact."""
        return self.kind is not None and atomic.is_sealed(self.place(cache))

    @abstractmethod
    def carry_out(self, done: Done, at: Context) -> Any:
        """Return the artifact: found, finished, or made. All ranks are here."""


@dataclass(frozen=True)
class Site:
    """Where stages are carried out: this machine, its cache, and the other ranks of the run."""

    machine: Machine
    cache: Cache
    ranks: Ranks

    def at(self, folder: Path, show: Display) -> Context:
        """Return the context of the stages of one run."""
        return Context(self.machine, self.cache, self.ranks, folder, show)


@dataclass(frozen=True)
class Context(Site):
    """A site, a run's directory, which rank 0 writes, and what shows how far a stage is."""

    folder: Path
    show: Display

    def prepared(self, stage: Stage, make: Callable[[Path], None], about: dict[str, Any]) -> Path:
        """Return a stage's artifact that one rank of each machine makes, and all open."""
        kind = str(stage.kind)

        def get() -> str:
            return str(self.cache.get(kind, stage.place(self.cache).name, make, about))

        folder = Path(self.ranks.once_per_machine(f"the {kind}", get))
        self.ranks.agree({f"prepared {kind}": atomic.file_sum(folder / atomic.MANIFEST)})
        return folder

    def trained(self, stage: Stage, make: Callable[[Path], Facts], about: dict[str, Any]) -> Path:
        """Return a stage's artifact that all ranks train together and rank 0 writes.

        make: trains in a folder and returns the facts, which are kept there (`facts_of`).
        """
        kind, ranks, turn = str(stage.kind), self.ranks, f"the {stage.kind}'s turn"

        def begin(folder: Path) -> None:
            ranks.from_first(turn, lambda: str(folder))
            finish(folder)

        def finish(folder: Path) -> None:
            # a start before this one may have come to the end
            if not ranks.from_first(f"the {kind}'s facts", (folder / FACTS).is_file):
                facts = make(folder)
                if ranks.is_first:
                    atomic.write_json(folder / FACTS, facts.to_json())
            if ranks.is_first:  # finished: nobody resumes it
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)

        if ranks.is_first:
            self.cache.get(kind, stage.place(self.cache).name, begin, about)
            ranks.from_first(turn, lambda: None)
        else:
            while folder := ranks.from_first(turn, lambda: None):
                finish(Path(folder))
        place = stage.place(self.cache)
        if not stage.is_kept(self.cache):
            raise UserError(
                f"rank {ranks.rank} does not see {place}: set run.cache to a folder that all "
                "nodes share"
            )
        return place


def facts_of(place: Path) -> Facts:
    """Return the facts of an artifact that was trained."""
    return Facts.from_json(atomic.read_json(place / FACTS) or {})
