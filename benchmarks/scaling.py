"""Bytes against compute on 2 to 512 GPUs, on paper: nothing is run but the plan's own accounts.

Compute is FLOPs over the assumed rate; communication is what each rank of a ring sends, over the
slowest link of that ring. Latencies, the optimiser's own time and the reading of text are left out.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from parts import compose_run
from timing import table

from dwt_cli.base.machine import Machine
from dwt_cli.base.options import Precision
from dwt_cli.config.run import Run
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.recipe.memory import memory, sent, traffic
from dwt_cli.recipe.recipe import recipe_of

PEAK_TFLOPS, MFU, DEVICE_GB = 312, 0.4, 80
GPUS_OF_A_NODE, EFFICIENCY = 8, 0.8
NVLINK, CARD = 300e9, 25e9  # bytes a second, each way: of a GPU, and of a 200 Gb/s card
CARDS = (8, 1)  # of a node
NUM_RANKS = (2, 8, 64, 512)
SEQUENCES = 16  # of a GPU, where that is what stays the same
ASSUMPTIONS = [
    f"{PEAK_TFLOPS} TFLOP/s in bf16 of which {MFU:.0%} are reached (an A100's peak; the share is "
    "assumed, and small micro-batches reach less)",
    f"{NVLINK / 1e9:.0f} GB/s each way and GPU within a node of {GPUS_OF_A_NODE} (NVLink 3), "
    f"{CARD / 1e9:.0f} GB/s each way and card between nodes (InfiniBand HDR), {CARDS[0]} cards a "
    f"node or {CARDS[1]}; {EFFICIENCY:.0%} of each are reached",
    "ring collectives: of S bytes an all-reduce sends 2 (n-1)/n S, an all-gather and a "
    "reduce-scatter (n-1)/n S; a ring that leaves a node is as fast as all its cards together",
    "ddp: one all-reduce of fp32 gradients a step. fsdp: two all-gathers of bf16 weights for each "
    "micro-batch and one reduce-scatter of fp32 gradients; one micro-batch a step",
    "overlap: none, or perfect: ddp behind the student's backward pass, fsdp behind all passes",
    "the teacher is whole on every GPU and sends nothing; its forward pass is compute",
]


@dataclass(frozen=True)
class Step:
    """One optimizer step on each of ``num_ranks`` GPUs; seconds, and bytes that each one sends."""

    num_ranks: int
    sequences: int
    compute: float
    window: float
    sent: float

    def communication(self, cards: int) -> float:
        link = NVLINK if self.num_ranks <= GPUS_OF_A_NODE else min(NVLINK, cards * CARD)
        return self.sent / (EFFICIENCY * link)

    def share(self, cards: int, overlap: bool) -> float:
        """Compute over the time of the step: 1 is no loss."""
        waiting = max(0.0, self.communication(cards) - (self.window if overlap else 0.0))
        return self.compute / (self.compute + waiting)

    def enough_sequences(self, cards: int) -> float:
        """Of each GPU, so that perfect overlap hides all communication."""
        return self.communication(cards) / (self.window / self.sequences)


def step(run: Run, num_ranks: int, sequences: int) -> Step:
    rate = PEAK_TFLOPS * 1e12 * MFU
    shapes = recipe_of(run).shapes
    flops = shapes.conditions.token_flops
    tokens = sequences * run.data.block_length
    forward = tokens * flops(shapes.student_model) / rate
    asking = sum(map(flops, shapes.teacher_models.values()))
    compute = FORWARD_AND_BACKWARD * forward + tokens * asking / rate
    backward = (FORWARD_AND_BACKWARD - 1) * forward
    dtype = Machine.elsewhere(DEVICE_GB, Precision.bf16).dtype
    sharding, size = run.parallel.sharding(num_ranks), num_parameters(shapes.student_model)
    exchanged = sent(traffic(sharding, size, dtype, num_parts=1), num_ranks)
    window = compute if sharding else backward
    return Step(num_ranks, sequences, compute, window, exchanged)


def steps(run: Run, per_gpu: bool) -> Iterator[Step]:
    for num_ranks in NUM_RANKS:
        sequences = SEQUENCES if per_gpu else run.train.batch_size // num_ranks
        if sequences:
            yield step(run, num_ranks, sequences)


def _rows(way: str, run: Run, per_gpu: bool) -> Iterator[list[str]]:
    for each in steps(run, per_gpu):
        yield [
            f"{way}, {each.num_ranks}",
            f"{each.sequences}",
            f"{1000 * each.compute:.1f}",
            f"{each.sent / 1e9:.2f}",
            *(f"{each.communication(cards) / each.compute:.2f}" for cards in CARDS),
            *(
                f"{each.share(cards, overlap=False):.0%} .. {each.share(cards, overlap=True):.0%}"
                for cards in CARDS
            ),
            *(f"{each.enough_sequences(cards):.1f}" for cards in CARDS),
        ]


def _memory_row(way: str, run: Run, num_ranks: int) -> list[str]:
    run.train.batch_size, run.train.micro_batch_size = SEQUENCES * num_ranks, None
    account = memory(recipe_of(run).shapes, Machine.elsewhere(DEVICE_GB, Precision.bf16), num_ranks)
    sizes = [*account.kinds.values(), account.total]
    name = f"{way}, {num_ranks}" if run.parallel.sharding(num_ranks) else f"{way}, any number"
    return [name, *(f"{size / 1e9:.2f}" for size in sizes)]


def draw(runs: dict[str, Run], file: Path) -> None:
    """Communication over compute: above 1 the GPUs wait even if all passes hide it."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axis, per_gpu in zip(axes, (True, False), strict=True):
        for number, (scale, run) in enumerate(runs.items()):
            found = list(steps(run, per_gpu))
            for cards, line in zip(CARDS, ("-", "--"), strict=True):
                axis.plot(
                    [each.num_ranks for each in found],
                    [each.communication(cards) / each.compute for each in found],
                    marker="o",
                    markersize=4,
                    linestyle=line,
                    color=f"C{number}",
                    label=f"{scale}, {cards} card{'s' if cards > 1 else ''} a node",
                )
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(NUM_RANKS, [str(n) for n in NUM_RANKS])
        axis.set_xlabel("GPUs")
        axis.set_title(
            f"{SEQUENCES} sequences on each GPU" if per_gpu else "the scale's batch, shared out"
        )
    axes[0].set_ylabel("communication / compute")
    axes[1].legend(frameon=False, fontsize=8, handlelength=3, loc="lower right")
    figure.savefig(file, dpi=130)


HEADINGS = ["parallel, GPUs", "sequences of each", "compute ms", "sent GB"]
HEADINGS += [
    f"{what}, {cards} card{'s' if cards > 1 else ''}"
    for what in ("communication / compute", "efficiency", "enough sequences")
    for cards in CARDS
]
KINDS = ["weights", "gradients", "optimizer", "gathered", "activations", "logits", "at its peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", nargs="*", default=["paper", "large"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="a folder")
    options = parser.parse_args()
    runs = {
        (scale, way): compose_run(
            [f"scale={scale}", "launch=torchrun", "launch.gpus=2", f"parallel={way}"]
        )
        for scale in options.scales
        for way in ("ddp", "fsdp")
    }
    draw({scale: runs[scale, "ddp"] for scale in options.scales}, options.out / "scaling.png")
    lines = ["Assumed:", ""]
    lines += [f"- {assumption}." for assumption in ASSUMPTIONS]
    for scale in options.scales:
        ways = {way: run for (name, way), run in runs.items() if name == scale}
        run = ways["ddp"]
        length, batch = run.data.block_length, run.train.batch_size
        for per_gpu, title in (
            (True, f"{SEQUENCES} sequences on each GPU"),
            (False, f"{batch} sequences on all GPUs together"),
        ):
            rows = [row for way, run in ways.items() for row in _rows(way, run, per_gpu)]
            lines += ["", f"## scale={scale}: {title}, of {length} tokens", ""]
            lines += table(HEADINGS, rows)
        rows = [_memory_row("ddp", run, NUM_RANKS[0])]
        rows += [_memory_row("fsdp", ways["fsdp"], n) for n in NUM_RANKS]
        lines += ["", f"## scale={scale}: GB on each GPU, {SEQUENCES} sequences", ""]
        lines += table(["parallel, GPUs", *KINDS], rows)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
