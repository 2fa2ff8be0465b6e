"""Going back to the last checkpoint when a training diverges, and on with other text.

What makes a loss rise is the weights with the text of those steps: the steps are taken again on the
text that follows, after Chowdhery et al. (2204.02311, section 5.1). Rollbacks are written down in
rollbacks.json beside the checkpoints, so that a training which goes on after a kill, or on other
ranks, reads the same text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.options import NonFinite, Train
from dwt_cli.training.protocols import Batches
from dwt_cli.training.snapshots import remove_after

FILE = "rollbacks.json"


class Diverged(UserError):
    """A step whose loss or gradient cannot be trained on; why: what it was."""

    def __init__(self, step: int, why: str, remedy: str) -> None:
        super().__init__(f"step {step}: {why}; {remedy}")
        self.step, self.why = step, why


class RolledBack(Exception):
    """A training that is to be begun again, from its newest checkpoint."""


@dataclass(frozen=True)
class Rollback:
    """Step number ``failed``, counted from 1, sent the training back to after step ``back``."""

    failed: int
    back: int
    why: str


@dataclass(frozen=True)
class Rollbacks:
    """Those of one training so far, in turn."""

    checkpoints: Checkpoints
    options: Train
    known: tuple[Rollback, ...]

    @classmethod
    def of(cls, checkpoints: Checkpoints, options: Train) -> "Rollbacks":
        """Return what rank 0 finds on record."""
        file = checkpoints.folder / FILE
        found = checkpoints.ranks.from_first("the rollbacks", lambda: atomic.read_json(file))
        return cls(checkpoints, options, tuple(Rollback(**each) for each in found or []))

    @property
    def num_undone(self) -> int:
        """Steps that were taken in vain."""
        return sum(each.failed - each.back for each in self.known)

    def text_of(self, step: int) -> int:
        """Return the step whose text is read in step ``step``, both counted from 0."""
        return step + sum(each.failed - each.back for each in self.known if step >= each.back)

    @contextmanager
    def rolling_back(self, snapshots: Path, steps_per_epoch: float) -> Iterator[None]:
        """Raise `RolledBack` for a training inside that diverges, once that is written down.

        snapshots: the folder whose later ones are taken back. Raises `Diverged` as it comes where
        rollbacks are not asked for, and after as many as there may be.
        """
        try:
            yield
        except Diverged as diverged:
            number, most = len(self.known) + 1, self.options.max_rollbacks
            if self.options.non_finite is not NonFinite.rollback or number > most:
                raise
            ranks, folder = self.checkpoints.ranks, self.checkpoints.folder
            steps = ranks.from_first("the checkpoints", self.checkpoints.steps)
            new = Rollback(diverged.step, max(steps, default=0), diverged.why)
            if ranks.is_first:
                remove_after(self.options.progress(steps_per_epoch, new.back, 0.0), snapshots)
                folder.mkdir(parents=True, exist_ok=True)
                atomic.write_json(folder / FILE, [asdict(each) for each in (*self.known, new)])
            raise RolledBack(
                f"step {new.failed}: {new.why}; rolled back to step {new.back} (rollback {number} "
                f"of at most {most})"
            ) from diverged


@dataclass(frozen=True)
class OtherText:
    """Batches whose text jumps over that of the steps that were undone; see `Batches`."""

    batches: Batches
    rollbacks: Rollbacks

    @property
    def tokens_per_step(self) -> int:
        return self.batches.tokens_per_step

    @property
    def steps_per_epoch(self) -> float:
        return self.batches.steps_per_epoch

    def num_targets(self, step: int) -> int:
        return self.batches.num_targets(self.rollbacks.text_of(step))

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any:
        return self.batches.batch(self.rollbacks.text_of(step), part, num_parts)
