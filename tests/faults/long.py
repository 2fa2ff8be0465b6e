"""Twenty thousand tiny steps: memory, files and threads stay as they are.

    python -m tests.faults long 20000

A student with a teacher beside it, its checkpoints and evaluations; the process is looked at every
second. Compared is the last quarter of the steps with the second: the first one warms up.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from dwt_cli.track.metrics import newest
from tests.faults.phases import TRAIN
from tests.faults.trials import Trial
from tests.miniature import write_text
from tests.processes import Started

MOST_GROWTH = 0.02
"""Of resident memory, from the second quarter to the last."""


def answers(num_steps: int, into: Path) -> Iterator[Trial]:
    """Yield what the process had in each quarter; the samples go to long.jsonl."""
    length = (f"scale.max_steps={num_steps}", f"scale.eval_every={num_steps // 20}")
    often = (f"train.checkpoint_every={num_steps // 100}", "scale.log_every=50")
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        place = Path(folder)
        write_text(place / "text")
        begun, samples = time.monotonic(), list[tuple[int, int, int, int]]()
        started = Started([*TRAIN, *length, *often, "eval.num_blocks=4"], place)
        process = Path("/proc", str(started.pid))
        with (into / "long.jsonl").open("w") as record:
            while started.is_at_work:
                time.sleep(1)
                logs = list(place.glob("runs/*/metrics.jsonl"))
                if not logs or not (step := newest(logs[0])[0]) or not process.is_dir():
                    continue
                try:
                    num_pages = int((process / "statm").read_text().split()[1])
                    files, threads = (len(list((process / n).iterdir())) for n in ("fd", "task"))
                except (OSError, IndexError):  # it has just ended
                    break
                samples.append((step, num_pages * 4096, files, threads))
                print(json.dumps(samples[-1]), file=record, flush=True)
        assert started.ended() == 0, started.output
    quarters = [
        [each for each in samples if n * num_steps / 4 < each[0] <= (n + 1) * num_steps / 4]
        for n in range(4)
    ]
    before = quarters[1]
    for number, of in enumerate(quarters):
        memory = mean(each[1] for each in of)
        said = f"{memory / 1e6:.1f} MB, {_most(of, 2)} files, {_most(of, 3)} threads"
        wrong = []
        if number == 3:
            growth = memory / mean(each[1] for each in before) - 1
            said += f", memory {growth:+.2%} since the second"
            wrong = ["memory grows"] if growth > MOST_GROWTH else []
            wrong += [f"more {n}" for i, n in ((2, "files"), (3, "threads"))
                      if _most(of, i) > _most(before, i)]  # fmt: skip
        name = f"steps to {(number + 1) * num_steps // 4}"
        yield Trial(name, number, round(time.monotonic() - begun, 1), said, wrong)


def _most(samples: Sequence[Sequence[int]], place: int) -> int:
    return max(each[place] for each in samples)
