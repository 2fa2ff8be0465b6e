"""The display of a run at work: a bar per stage and one ETA over all of them.

On a terminal the bars are live; in a log file there is a plain line now and then instead.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column

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


def _fixed(width: int) -> Column:
    return Column(width=width, no_wrap=True)


class Display(Bars):
    """A bar for each stage. costs: FLOPs by stage; None: not known yet, and no ETA is given."""

    def __init__(self, console: Console, costs: Mapping[str, float | None] | None = None) -> None:
        super().__init__(
            console,
            TextColumn("[bold]{task.description}", table_column=_fixed(9)),
            BarColumn(bar_width=14, table_column=_fixed(14)),
            TextColumn("{task.percentage:>3.0f}%", table_column=_fixed(4)),
            TextColumn("{task.fields[eta]}", table_column=_fixed(11)),
            TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
        )
        self._costs: dict[str, float | None] = {}
        self._done: dict[str, float] = {}
        self._printed = 0.0
        self._spent = (0.0, 0.0)  # seconds and FLOPs of training in this process
        self._tasks: dict[str, TaskID] = {}
        self.expect(costs or {})

    def expect(self, costs: Mapping[str, float | None]) -> None:
        """Add the stages that are new, and correct what the others cost."""
        self._costs |= costs
        for stage in (name for name in costs if name not in self._tasks):
            self._done[stage] = 0.0
            self._tasks[stage] = self.bars.add_task(stage, total=1.0, start=False, text="", eta="")

    def update(
        self, stage: str, share: float, text: str = "", seconds: float | None = None
    ) -> None:
        """Show that a stage has come to a share of itself, in ``seconds`` since the last update."""
        work = (share - self._done[stage]) * (self._costs[stage] or 0.0)
        if seconds is not None and work > 0:
            self._spent = (self._spent[0] + seconds, self._spent[1] + work)
        self._done[stage] = share
        self.bars.start_task(self._tasks[stage])
        eta = self._eta() if share < 1 else ""
        self.bars.update(self._tasks[stage], completed=share, text=text, eta=eta)
        if share >= 1:
            self.bars.stop_task(self._tasks[stage])
        if not self.is_live and (share >= 1 or time.monotonic() - self._printed > _QUIET_SECONDS):
            self._printed = time.monotonic()
            self.say(f"{stage:<8} {share:4.0%}  {eta or 'done':<11}  {text}")

    def _eta(self) -> str:
        """Until all stages are done."""
        ahead = [stage for stage, done in self._done.items() if done < 1]
        known = {stage: cost for stage in ahead if (cost := self._costs[stage]) is not None}
        left = sum((1 - self._done[stage]) * cost for stage, cost in known.items())
        return eta(*self._spent, left if len(known) == len(ahead) else None)


class TrainingDisplay:
    """An observer that shows one training on a display."""

    def __init__(self, display: Display, stage: str) -> None:
        self._display, self.stage = display, stage
        self._heldout = ""
        self._goes_on = False

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
        if self._heldout:
            parts.append(self._heldout)
        tokens_per_step = metrics["tokens"] / step
        self._display.update(
            self.stage,
            progress,
            "  ".join(parts),
            # the first step after a resumption brings the work of earlier processes with it
            seconds=None if self._goes_on else tokens_per_step / metrics["tokens_per_s"],
        )
        self._goes_on = False

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._heldout = f"held-out {metrics['loss']:.3f}"
