"""What does a step with a teacher that was asked before cost, beside a stand-alone step?

    python benchmarks/cached_step.py [--rounds 30] [OVERRIDE ...]

A step is the loop's own: batch, what is cached for it, forward, backward, clipping, optimiser; on
random tokens, with the entries and centroids of signal=threshold. Timed in turn, in seconds of the
processor's time of this process (one thread), which a shared machine does not change much; ratios
are taken round by round. The step with the teacher beside it stands there to be compared with.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from parts import Parts, Steps, compose_run, synthetic_batches
from provenance import provenance
from timing import in_turn, ratios, spread, table

from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.signal.cached import (
    CachedSignal,
    as_distributions,
    asked,
    centroids_of,
    layout_of,
)
from dwt_cli.distill.signal.options import Threshold
from dwt_cli.distill.signal.store import CachedBlock, Store, keys_of, write_shard

_ALONE, _CACHED, _BESIDE = "stand-alone step", "teacher cached", "teacher beside"


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return measure


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    given = parser.parse_args()
    run = compose_run(["task=clm", "launch.num_threads=1", *given.overrides])
    parts, cached = Parts.of(run), Threshold(num_centroids=32)
    signal, layout = parts.signal(), layout_of(cached, run.data.vocab_size)
    shown = [parts.batches.batch(step) for step in range(3)]
    centroids = as_distributions(centroids_of(signal, shown, cached, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        blocks: list[CachedBlock] = []
        for step in range(given.rounds + 5):
            batch = parts.batches.batch(step)
            blocks += asked(signal, batch, keys_of(batch, ""), cached, layout, 1.0, centroids)
        write_shard(Path(folder), 0, blocks)
        store = Store(Path(folder), layout, [0])
    batches = synthetic_batches(run, lambda batch: store.entries(batch, ""))
    heard = CachedSignal(run.data.vocab_size, lambda batch: (), {}, centroids)
    things = {
        _ALONE: Steps(parts.training(Constant(hard=1.0, soft=0.0), None)),
        _CACHED: Steps(replace(parts, batches=batches).training(run.alpha, heard)),
        _BESIDE: Steps(parts.training(run.alpha, signal)),
    }
    spent = in_turn({name: _timed(work) for name, work in things.items()}, given.rounds, 5)
    rows = [[name, spread([1000 * s for s in each], 1)] for name, each in spent.items()]
    shares = [
        [f"{n} / {_ALONE}", spread(ratios(spent[n], spent[_ALONE]), 3)] for n in (_CACHED, _BESIDE)
    ]
    lines = [*provenance(), "", *table(["in turn", "ms of processor time"], rows), ""]
    print("\n".join([*lines, *table(["ratio per round", "median (min .. max)"], shares)]))


if __name__ == "__main__":
    main()
