"""A model at chosen moments of its training, kept to be measured (figure 3), or to teach."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.training.protocols import Numbers, Observer


def snapshots_of(run_folder: Path) -> Path:
    """Return the folder in which a run keeps them, one for each share of the training."""
    return run_folder / "snapshots"


def place_of(run_folder: Path, share: float) -> Path:
    """Return the place of the model at a share of the training, in the hub's format."""
    return run_folder / "model" if share == 1 else snapshots_of(run_folder) / f"{share:g}"


def remove_after(progress: float, folder: Path) -> None:
    """Remove the snapshots of a folder that were taken later in a training than ``progress``."""
    for place in folder.glob("[0-9]*"):
        if float(place.name) > float(f"{progress:g}"):  # as its name is
            shutil.rmtree(place)


@dataclass
class Snapshots(Observer):
    """An observer that saves the model when a share of the training is reached.

    A training that goes on after an interruption has those of its earlier part already. Every rank
    has such an observer: all of them take part in ``gather``, after which the first one can save.
    """

    save: Callable[[Path], None]
    folder: Path
    shares: Sequence[float]
    gather: Callable[[], None] = lambda: None
    ranks: Ranks = ALONE
    _before: float | None = None  # the share that was done before the coming step

    def resumed(self, step: int) -> None:
        self._before = None
        if step == 0:
            if self.ranks.is_first:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._take(-1.0, 0.0)

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        before = progress * (step - 1) / step if self._before is None else self._before
        self._take(before, progress)
        self._before = progress

    def _take(self, before: float, progress: float) -> None:
        for share in self.shares:
            place = self.folder / f"{share:g}"
            if share == 1 or not before < share <= progress:
                continue
            if self.ranks.from_first("which snapshots there are", place.exists):
                continue
            self.gather()
            if self.ranks.is_first:
                self.folder.mkdir(exist_ok=True)
                aside = self.folder / ".writing"
                shutil.rmtree(aside, ignore_errors=True)
                self.save(aside)
                aside.rename(place)
