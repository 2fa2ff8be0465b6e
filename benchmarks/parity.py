"""The same training on 1, 2 and 4 ranks: how far first gradients and losses are apart.

A tiny student with a teacher, the KL term and trained projections beside it, in fp32 over gloo, as
the tests have it (tests/training/parity.py). Differences are relative to one rank without
accumulation.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' parts

import torch
from provenance import provenance
from timing import table

from dwt_cli.config import Data
from dwt_cli.corpus.corpus import build
from dwt_cli.corpus.documents import no_progress
from tests.conftest import BLOCK_LENGTH, VOCAB_SIZE, Sentences
from tests.training.parity import Outcome, Setting, outcomes, relative_difference


def _row(setting: Setting, seen: Outcome, alone: Outcome) -> list[str]:
    apart = [abs(a - b) / b for a, b in zip(seen.losses, alone.losses, strict=True)]
    return [
        f"{setting.optim}, {setting.num_ranks} x {setting.parallel}",
        str(setting.accumulation),
        f"{relative_difference(seen.gradient, alone.gradient):.1e}",
        f"{max(apart):.1e}",
        f"{apart[-1]:.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--optim", nargs="*", default=["adamw", "muon"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = provenance()
    rows: list[list[str]] = []
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        data = Data(block_length=BLOCK_LENGTH, vocab_size=VOCAB_SIZE, heldout_fraction=0.25)
        build(Sentences(), data, None, corpus, no_progress, print)
        for optim in options.optim:
            (alone,) = outcomes(Setting(optim=optim), corpus, Path(folder) / optim)
            for num_ranks in options.ranks:
                for parallel in ("ddp", "fsdp") if num_ranks > 1 else ("ddp",):
                    for accumulation in (1, 2, 4):
                        setting = Setting(num_ranks, parallel, accumulation, optim)
                        place = Path(folder) / str(len(rows))
                        rows.append(_row(setting, outcomes(setting, corpus, place)[0], alone))
                        print(rows[-1], file=sys.stderr, flush=True)
    head = ["ranks", "accumulation", "first gradient", "largest of 20 losses", "20th loss"]
    print("\n".join([*where, "", *table(head, rows)]))


if __name__ == "__main__":
    main()
