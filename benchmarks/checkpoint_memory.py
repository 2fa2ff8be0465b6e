"""Memory of each rank while a checkpoint is written and opened: CPU processes over gloo.

A BERT of 110 M parameters with AdamW's moments, sharded or replicated. Beside each rank's resident
memory before, the most that is added while `Checkpoints.save` runs, and `Checkpoints.restore` into
a new model and optimiser: the kernel's own high-water mark, set back first (Linux). Weights are
418 MiB, moments 835 MiB.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' parts

import torch
from provenance import provenance
from timing import table
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from dwt_cli.base.ranks import Ranks
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import AdamW, Fsdp
from dwt_cli.training.parallel import shard
from tests.processes import together

CPU, NO_AUX = torch.device("cpu"), nn.ModuleDict()


def _resident_mb(line: str) -> float:
    (value,) = [
        words.split()[1]
        for words in Path("/proc/self/status").read_text().splitlines()
        if words.startswith(line)
    ]
    return int(value) / 1024


def _made(sharded: bool) -> tuple[LanguageModel, Optimizer]:
    model = LanguageModel(BertForMaskedLM(BertConfig()), torch.float32)
    if sharded:
        shard(model, NO_AUX, Fsdp(), CPU, torch.float32)
    return model, Optimizer(model, AdamW(lr=0.0))


def _added(ranks: Ranks, act: Callable[[], object]) -> tuple[float, float]:
    """Resident memory before, and the most that is added while ``act`` runs, in MiB."""
    ranks.largest(0)  # all of them are there
    before = _resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    act()
    return before, _resident_mb("VmHWM") - before


def _save(ranks: Ranks, checkpoints: Checkpoints, sharded: bool) -> tuple[float, float]:
    model, optimizer = _made(sharded)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return _added(ranks, lambda: checkpoints.save(model, NO_AUX, optimizer, Counters(step=1)))


def _measure(ranks: Ranks, folder: Path, sharded: bool) -> list[tuple[float, float]]:
    torch.set_num_threads(1)
    checkpoints = Checkpoints(folder, "identity", 1, print, ranks)
    saved = _save(ranks, checkpoints, sharded)
    model, optimizer = _made(sharded)
    return [saved, _added(ranks, lambda: checkpoints.restore(model, NO_AUX, optimizer))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    options = parser.parse_args()
    rows = []
    for num_ranks, sharded in itertools.product(options.ranks, (True, False)):
        with TemporaryDirectory() as folder:
            seen = together(num_ranks, _measure, Path(folder), sharded)
        for rank, measured in enumerate(seen):
            values = [f"{value:,.0f}" for pair in measured for value in pair]
            rows.append(["fsdp" if sharded else "ddp", f"{num_ranks}", f"{rank}", *values])
    names = ["before saving", "added", "before restoring", "added"]
    print(*provenance(), "", sep="\n")
    print(*table(["", "ranks", "rank", *(f"{name}, MiB" for name in names)], rows), sep="\n")


if __name__ == "__main__":
    main()
