"""The same training on 1, 2 and 4 ranks: how far first gradients and losses are apart.

A tiny student with a teacher, the KL term and trained projections beside it, in fp32 over gloo, as
the tests have it (tests/training/parity.py). Differences are relative to one rank without
accumulation. A second table: runs that end on 2 ranks and go on with another number of them.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' parts

import torch
from provenance import provenance
from timing import table

from dwt_cli.data.corpus import build
from dwt_cli.data.options import Data
from dwt_cli.data.source import no_progress
from dwt_cli.tasks.options import MaskedLM
from tests.conftest import BLOCK_LENGTH, VOCAB_SIZE, Sentences
from tests.training.parity import PARALLEL, Outcome, Setting, outcomes, relative_difference

_ACCUMULATIONS = (1, 2, 4)
_STOP, _KEPT = 10, 8  # a run ends after the step, and goes on from a checkpoint before it


def _apart(losses: list[float], alone: Outcome) -> float:
    return max(abs(a - b) / b for a, b in zip(losses, alone.losses, strict=True))


def _row(
    optim: str, num_ranks: int, parallel: str, seen: list[Outcome], alone: Outcome
) -> list[str]:
    gradients = [relative_difference(outcome.gradient, alone.gradient) for outcome in seen]
    losses = [_apart(outcome.losses, alone) for outcome in seen]
    name = f"{num_ranks} x {parallel}" if num_ranks > 1 else "1"
    return [optim, name, *(", ".join(f"{x:.1e}" for x in each) for each in (gradients, losses))]


def _gone_on(optim: str, parallel: str, then: int, corpus: Path, place: Path) -> list[float]:
    first = Setting(2, parallel, 1, optim, num_steps=_STOP, checkpoint_every=_KEPT)
    begun = outcomes(first, corpus, place)[0].losses[:_KEPT]
    return begun + outcomes(Setting(then, parallel, 1, optim), corpus, place)[0].losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--optim", nargs="*", default=["adamw", "muon"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = provenance()
    rows: list[list[str]] = []
    resumed: list[list[str]] = []
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        data = Data(block_length=BLOCK_LENGTH, vocab_size=VOCAB_SIZE, heldout_fraction=0.25)
        build(Sentences(), data, MaskedLM.frame, None, corpus, no_progress, print)

        def place() -> Path:
            return Path(mkdtemp(dir=folder))

        for optim in options.optim:
            (alone,) = outcomes(Setting(optim=optim), corpus, place())
            for num_ranks in options.ranks:
                for parallel in PARALLEL if num_ranks > 1 else ["ddp"]:
                    seen = [
                        outcomes(Setting(num_ranks, parallel, n, optim), corpus, place())[0]
                        for n in _ACCUMULATIONS
                    ]
                    rows.append(_row(optim, num_ranks, parallel, seen, alone))
                    print(rows[-1], file=sys.stderr, flush=True)
            for parallel in ("ddp", "fsdp"):
                for then in options.ranks:
                    losses = _gone_on(optim, parallel, then, corpus, place())
                    resumed.append(
                        [optim, parallel, f"2, then {then}", f"{_apart(losses, alone):.1e}"]
                    )
                    print(resumed[-1], file=sys.stderr, flush=True)
    of_each = f"at accumulation {', '.join(map(str, _ACCUMULATIONS))}"
    head = ["optim", "ranks", f"first gradient, {of_each}", f"largest of 20 losses, {of_each}"]
    print("\n".join([*where, "", *table(head, rows), ""]))
    print("\n".join(table(["optim", "parallel", "ranks", "largest of 20 losses"], resumed)))


if __name__ == "__main__":
    main()
