"""What `dwt-advise` asks a record with: the runs of its studies, and when a teacher is heard."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from dwt_cli.distill.alpha import Schedule
from dwt_cli.study.law import points, soft_share
from dwt_cli.study.recorded import Ends, Listening
from dwt_cli.study.results import read_results
from dwt_cli.training.protocols import Moment

_NUM_MOMENTS = 200  # of a run, at which a schedule is looked at
_NOMINAL = 1000  # steps of a run whose weights are looked at


def on_record(folders: Sequence[str], say: Callable[[str], None]) -> pd.DataFrame:
    """Return the runs of studies that a law is fitted to, and say how many."""
    runs = points(*(read_results(Path(each).expanduser()) for each in folders))
    left_out = [f"{num} {why}" for why, num in runs.attrs["left_out"].items()]
    without = f"; left out: {', '.join(left_out)}" if left_out else ""
    say(f"a law is fitted to {len(runs)} runs on record{without}")
    return runs


def listening(alpha: Schedule) -> Listening:
    """Return when a teacher is listened to by a schedule, and how strongly.

    A weight that reacts is taken to fall evenly from its greatest to none.
    """
    moments = [Moment(k / _NUM_MOMENTS) for k in range(_NUM_MOMENTS)]
    if alpha.reacts:
        pairs = [(alpha.hard, alpha.soft * (1 - each.progress)) for each in moments]
        return Listening(Ends.overtaken, soft_share(pairs))
    if alpha.crossing:
        return Listening(Ends.crossed, soft_share([(alpha.hard, alpha.soft)]))
    planned = alpha.placed(_NOMINAL, None)
    weight = soft_share([planned.weights(each) for each in moments])

    def share(steps: float) -> float:
        placed = alpha.placed(max(1, round(steps)), None)
        return sum(not placed.soft_is_over(each) for each in moments) / _NUM_MOMENTS

    return Listening(Ends.planned, weight, share)
