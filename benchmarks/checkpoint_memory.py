"""Memory of each rank of a sharded model while a checkpoint is written: CPU processes over gloo.

A BERT of 110 M parameters with AdamW's moments. Beside each rank's resident memory before, the
most that is added while `Checkpoints.save` runs: the kernel's own high-water mark, set back first
(Linux). Weights are 418 MiB, moments 835 MiB.
"""

import argparse
import sys
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


def _save(ranks: Ranks, folder: Path) -> tuple[float, float]:
    """Resident memory before, and the most that is added while a checkpoint is saved, in MiB."""
    torch.set_num_threads(1)
    model = LanguageModel(BertForMaskedLM(BertConfig()), torch.float32)
    shard(model, NO_AUX, Fsdp(), CPU, torch.float32)
    optimizer = Optimizer(model, AdamW(lr=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    ranks.largest(0)  # all of them are there
    before = _resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    checkpoints = Checkpoints(folder, "identity", 1, print, ranks)
    checkpoints.save(model, NO_AUX, optimizer, Counters(step=1))
    return before, _resident_mb("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    options = parser.parse_args()
    rows = []
    for num_ranks in options.ranks:
        with TemporaryDirectory() as folder:
            for rank, found in enumerate(together(num_ranks, _save, Path(folder))):
                rows.append([f"{num_ranks}", f"{rank}", *(f"{value:,.0f}" for value in found)])
    print(*provenance(), "", sep="\n")
    print(*table(["ranks", "rank", "resident, MiB", "added while saving, MiB"], rows), sep="\n")


if __name__ == "__main__":
    main()
