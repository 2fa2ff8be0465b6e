"""Going back some steps when a training diverges, and on with other text.

What makes a loss rise is the weights with the text of those steps: some steps are taken again on
the text that follows, after Chowdhery et al. (2204.02311, section 5.1). Rollbacks are written down
in rollbacks.json beside the checkpoints, so that a training which goes on after a kill, or on other
ranks, reads the same text.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.options import NonFinite, Train
from dwt_cli.training.protocols import Batches
from dwt_cli.training.snapshots import remove_after

FILE = "rollbacks.json"


class Diverged(UserError):
    """A step whose loss or gradient cannot be trained on.

    why: what it was. counters: those after the step before.
    """

    def __init__(self, why: str, remedy: str, counters: Counters) -> None:
        super().__init__(f"step {counters.step + 1}: {why}; {remedy}")
        self.why, self.counters = why, counters


class RolledBack(Exception):
    """A training that is to be begun again, from its newest checkpoint."""


@dataclass(frozen=True)
class Rollback:
    """Step number ``failed``, counted from 1, sent the training back to after step ``back``.

    text: what it reads from there on: that of the steps from this one, counted from 0. undone,
    taught, seconds: what is done again from the checkpoint before: steps, those with a teacher, and
    their time.
    """

    failed: int
    back: int
    text: int
    why: str
    undone: int
    taught: int
    seconds: float


@dataclass(frozen=True)
class Rollbacks:
    """Those of one training so far, in turn."""

    checkpoints: Checkpoints
    options: Train
    known: tuple[Rollback, ...]

    @classmethod
    def of(cls, checkpoints: Checkpoints, options: Train) -> "Rollbacks":
        """Return what rank 0 finds on record; `UserError` for a record that is damaged."""
        file = checkpoints.folder / FILE

        def read() -> Any:
            return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []

        try:
            found = checkpoints.ranks.from_first("the rollbacks", read)
            return cls(checkpoints, options, tuple(Rollback(**each) for each in found))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{file} is damaged, and which text was left out is not known without it; put it "
                "back, or start anew with run.fresh=true"
            ) from error

    @property
    def undone(self) -> int:
        """Steps that were taken in vain."""
        return sum(each.undone for each in self.known)

    def text_of(self, step: int) -> int:
        """Return the step whose text is read in step ``step``, both counted from 0."""
        last = (each for each in reversed(self.known) if step >= each.back)
        return next((step - each.back + each.text for each in last), step)

    @contextmanager
    def rolling_back(self, snapshots: Path, steps_per_epoch: float) -> Iterator[None]:
        """Raise `RolledBack` for a training inside that diverges, once that is written down.

        snapshots: the folder whose later ones are taken back. Raises `Diverged` where rollbacks
        are not asked for, and after as many as there may be.
        """
        try:
            yield
        except Diverged as diverged:
            number, most = len(self.known) + 1, self.options.max_rollbacks
            if self.options.non_finite is not NonFinite.rollback:
                raise
            if number > most:
                remedy = (
                    f"{most} rollbacks were in vain; raise train.max_rollbacks, or lower optim.lr"
                )
                raise Diverged(diverged.why, remedy, diverged.counters) from diverged
            new = self._back_from(diverged)
            if self.checkpoints.ranks.is_first:
                remove_after(self.options.progress(steps_per_epoch, new.back, 0.0), snapshots)
                lines = [asdict(each) for each in (*self.known, new)]
                self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
                atomic.write_json(self.checkpoints.folder / FILE, lines)
            raise RolledBack(
                f"step {new.failed}: {new.why}; rolled back to step {new.back} (rollback {number} "
                f"of at most {most})"
            ) from diverged

    def _back_from(self, diverged: Diverged) -> Rollback:
        """Return where a failed step leads to; the checkpoints after that are removed.

        It follows from the settings alone, so that a kill before it changes nothing.
        """
        after = diverged.counters
        back = max(0, after.step - self.options.rollback_steps)
        kept = self.checkpoints.drop_after(back)
        taught = int(after.memory.get("num_taught", 0) - kept.memory.get("num_taught", 0))
        undone, seconds = after.step + 1 - kept.step, after.elapsed_s - kept.elapsed_s
        text = self.text_of(after.step) + 1
        return Rollback(after.step + 1, back, text, diverged.why, undone, taught, seconds)


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
