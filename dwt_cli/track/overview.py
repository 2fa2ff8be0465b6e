"""The display of a multirun at work: runs done, running and failed, and one ETA.

On a terminal the bars are live; in a log file there is a line for each run that ends.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dwt_cli.track.display import clock, plain_line
from dwt_cli.track.metrics import newest


class Overview(AbstractContextManager["Overview"]):
    """One bar for all runs and one for each that is at work.

    steps: of each run that has to be carried out, by its identity; they are what an ETA is made of.
    """

    def __init__(
        self, console: Console, name: str, steps: Mapping[str, float], num_done: int
    ) -> None:
        self._say = plain_line(console)
        self._live = console.is_terminal
        self._left = dict(steps)
        self._total = num_done + len(steps)
        self._num_done, self._num_failed = num_done, 0
        self._done_steps, self._started = 0.0, time.monotonic()
        self._shares: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not self._live,
        )
        self._all = self._bars.add_task(name, total=self._total, completed=num_done, text="")
        self._tasks: dict[str, TaskID] = {}
        if num_done or not self._live:
            self._say(f"{name}: {self._total} runs, {num_done} of them finished before")

    def __enter__(self) -> "Overview":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def at_work(self, identity: str, name: str, folder: Path | None) -> None:
        """Show a run that goes on; how far it has come is read off its metrics."""
        if identity not in self._tasks:
            self._tasks[identity] = self._bars.add_task(name, total=1.0, text="getting ready")
        step, share, loss = newest(folder / "metrics.jsonl") if folder else (None, None, None)
        if share is not None:
            self._shares[identity] = share
            text = f"step {step}" + ("" if loss is None else f"  held-out {loss:.3f}")
            self._bars.update(self._tasks[identity], completed=share, text=text)
        self._bars.update(self._all, text=self._line())

    def ended(self, identity: str, name: str, error: str | None, loss: float | None) -> None:
        """Count a run that has ended, well or not."""
        if task := self._tasks.pop(identity, None):
            self._bars.remove_task(task)
        self._shares.pop(identity, None)
        self._done_steps += self._left.pop(identity, 0.0)
        self._num_failed += error is not None
        self._num_done += error is None
        self._bars.update(self._all, completed=self._num_done, text=self._line())
        result = error or ("finished" if loss is None else f"held-out loss {loss:.3f}")
        ended = self._num_done + self._num_failed
        self._say(f"{ended} of {self._total}, {self._eta()}: {name}: {result}")

    def _line(self) -> str:
        return (
            f"{self._num_done} of {self._total} done, {len(self._tasks)} running, "
            f"{self._num_failed} failed, {self._eta()}"
        )

    def _eta(self) -> str:
        under_way = sum(self._left.get(run, 0.0) * share for run, share in self._shares.items())
        done = self._done_steps + under_way
        if not self._left:
            return "done"
        if done == 0:
            return "ETA ..."
        rest = sum(self._left.values()) - under_way
        return f"ETA {clock(rest * (time.monotonic() - self._started) / done)}"
