"""The displays of a run and of a multirun at work: a bar per stage or run, and one ETA over all.

On a terminal the bars are live; in a log file there is a plain line now and then instead, or one
for each run that ends.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column

from dwt_cli.track.metrics import newest

_QUIET_SECONDS = 15.0  # between two lines in a log file


def plain_line(console: Console) -> Callable[[str], None]:
    """A function that prints one line as it is, whatever the terminal's width."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def eta(seconds: float, done: float, left: float | None) -> str:
    """Return when what is left will be done, at the speed so far; dots until both are known."""
    if left is None or not done:
        return "ETA ..."
    whole = round(left * seconds / done)
    return f"ETA {whole // 3600:d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Bars(ExitStack):
    """Bars that are live on a terminal until the end of the context.

    say: prints a line above them. is_live: whether there is a terminal; else no bar is shown.
    """

    def __init__(self, console: Console, *columns: ProgressColumn, expand: bool = False) -> None:
        super().__init__()
        self.say, self.is_live = plain_line(console), console.is_terminal
        bars = Progress(*columns, console=console, expand=expand, disable=not self.is_live)
        self.bars = self.enter_context(bars)


class Display(Bars):
    """A bar for each stage. costs: FLOPs by stage; None: not known yet, and no ETA is given."""

    def __init__(self, console: Console, costs: Mapping[str, float | None] | None = None) -> None:
        super().__init__(
            console,
            TextColumn("[bold]{task.description}", table_column=Column(width=9, no_wrap=True)),
            BarColumn(bar_width=14, table_column=Column(width=14, no_wrap=True)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(width=4, no_wrap=True)),
            TextColumn("{task.fields[eta]}", table_column=Column(width=11, no_wrap=True)),
            TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
        )
        self._printed = 0.0
        self._spent = (0.0, 0.0)  # seconds and FLOPs of training in this process
        self._stages: dict[str, Task] = {}
        self.expect(costs or {})

    def expect(self, costs: Mapping[str, float | None]) -> None:
        """Add the stages that are new, and correct what the others cost."""
        for stage, cost in costs.items():
            if stage not in self._stages:
                number = self.bars.add_task(stage, total=1.0, start=False, text="", eta="")
                self._stages[stage] = self.bars.tasks[number]
            self._stages[stage].fields["cost"] = cost

    def update(
        self, stage: str, share: float, text: str = "", seconds: float | None = None
    ) -> None:
        """Show that a stage has come to a share of itself, in ``seconds`` since the last update."""
        task = self._stages[stage]
        work = (share - task.completed) * (task.fields["cost"] or 0.0)
        if seconds is not None and work > 0:
            self._spent = (self._spent[0] + seconds, self._spent[1] + work)
        task.completed = share
        eta = self._eta() if share < 1 else ""
        self.bars.start_task(task.id)
        self.bars.update(task.id, completed=share, text=text, eta=eta)
        if not self.is_live and (share >= 1 or time.monotonic() - self._printed > _QUIET_SECONDS):
            self._printed = time.monotonic()
            self.say(f"{stage:<8} {share:4.0%}  {eta or 'done':<11}  {text}")

    def _eta(self) -> str:
        ahead = [task for task in self.bars.tasks if task.completed < 1]
        if any(task.fields["cost"] is None for task in ahead):
            return eta(*self._spent, None)
        return eta(*self._spent, sum((1 - task.completed) * task.fields["cost"] for task in ahead))


class TrainingDisplay:
    """An observer that shows one training on a display."""

    def __init__(self, display: Display, stage: str) -> None:
        self._display, self.stage = display, stage
        self._heldout, self._goes_on = "", False
        self._line: tuple[float, str, float | None] = (0.0, "", None)

    def resumed(self, step: int) -> None:
        self._goes_on = step > 0
        if step:
            self._display.say(f"{self.stage}: going on after step {step}")

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        parts = [f"step {step}", f"hard {metrics['hard_loss']:.3f}"]
        if "soft_loss" in metrics:
            parts.append(f"soft {metrics['soft_loss']:.3f}")
        if "alpha_soft" in metrics:
            parts.append(f"alpha {metrics['alpha_hard']:.3g}:{metrics['alpha_soft']:.3g}")
        parts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
        tokens_per_step = metrics["tokens"] / step
        # the first step after a resumption brings the work of earlier processes with it
        seconds = None if self._goes_on else tokens_per_step / metrics["tokens_per_s"]
        self._goes_on = False
        self._line = progress, "  ".join(parts), seconds
        if progress < 1:  # the last line waits for its held-out loss
            self._show()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._heldout = f"  held-out {metrics['loss']:.3f}"
        if self._line[0] == 1:
            self._show()

    def _show(self) -> None:
        share, text, seconds = self._line
        self._display.update(self.stage, share, text + self._heldout, seconds=seconds)


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
