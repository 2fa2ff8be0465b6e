"""The display of a multirun at work: runs done, running and failed, and one ETA.

On a terminal the bars are live; in a log file there is a line for each run that ends.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn

from dwt_cli.track.display import Bars, eta
from dwt_cli.track.metrics import newest


class Overview(Bars):
    """One bar for all runs and one for each that is at work.

    steps: of each run that has to be carried out, by its identity; they are what an ETA is made of.
    """

    def __init__(
        self, console: Console, name: str, steps: Mapping[str, float], num_done: int
    ) -> None:
        super().__init__(
            console,
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
        )
        self._steps, self._shares = steps, dict.fromkeys(steps, 0.0)
        self._total = num_done + len(steps)
        self._num_done, self._num_failed = num_done, 0
        self._started = time.monotonic()
        self._all = self.bars.add_task(name, total=self._total, completed=num_done, text="")
        self._tasks: dict[str, TaskID] = {}
        if num_done or not self.is_live:
            self.say(f"{name}: {self._total} runs, {num_done} of them finished before")

    def at_work(self, identity: str, name: str, folder: Path | None) -> None:
        """Show a run that goes on; how far it has come is read off its metrics."""
        if identity not in self._tasks:
            self._tasks[identity] = self.bars.add_task(name, total=1.0, text="getting ready")
        step, share, loss = newest(folder / "metrics.jsonl") if folder else (None, None, None)
        if share is not None:
            self._shares[identity] = share
            text = f"step {step}" + ("" if loss is None else f"  held-out {loss:.3f}")
            self.bars.update(self._tasks[identity], completed=share, text=text)
        self._update()

    def ended(self, identity: str, name: str, error: str | None, loss: float | None) -> None:
        """Count a run that has ended, well or not."""
        if task := self._tasks.pop(identity, None):
            self.bars.remove_task(task)
        self._shares[identity] = 1.0
        self._num_failed += error is not None
        self._num_done += error is None
        self._update()
        result = error or ("finished" if loss is None else f"held-out loss {loss:.3f}")
        ended = self._num_done + self._num_failed
        self.say(f"{ended} of {self._total}, {self._eta()}: {name}: {result}")

    def _update(self) -> None:
        text = (
            f"{self._num_done} of {self._total} done, {len(self._tasks)} running, "
            f"{self._num_failed} failed, {self._eta()}"
        )
        self.bars.update(self._all, completed=self._num_done, text=text)

    def _eta(self) -> str:
        if self._num_done + self._num_failed == self._total:
            return "done"
        done = sum(self._steps[run] * share for run, share in self._shares.items())
        return eta(time.monotonic() - self._started, done, sum(self._steps.values()) - done)
