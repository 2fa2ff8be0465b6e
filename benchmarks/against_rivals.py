"""How much faster is the project's DWT step than what others would write for the same training?

Student 6 layers x 256 wide, teacher 4 layers, vocabulary 8192, 32 blocks of 128 tokens; masked
families and a decoder, the same family on both sides. What the rivals are is said in their files
in `rivals/`. Every side is a process of its own, which takes a step when it is asked to; they are
asked in turn, round after round. A side that cannot run here is shown with the reason;
`--python` names an interpreter with what rivals need (accelerate, textbrewer) where this one lacks
it.

First all take 20 steps from the same weights on the same batches: the cross-entropy of the 20th
must have come as far down as the obvious script's, to a share of the way (`TOLERANCE`). Then steps
are timed, batch, clipping and optimiser included.

How to read it: tokens/s are of the median step; "over the project's" is the row's seconds of a
step over the project's in the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from parts import Parts, compose_run
from provenance import provenance
from rivals.problem import IGNORED, Problem
from timing import SMOKE, in_turn, ratios, spread, table

from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Head, MadeStudent
from dwt_cli.tasks.task import Batch

FAMILIES = ("bert", "modernbert", "qwen3")
DECODERS = ("qwen3",)
CHECKED_STEPS = 20
TOLERANCE = 0.05
"""Of the way that the obvious script's loss has come down: bf16 and weight decay differ."""
OURS, OURS_COMPILED = "project", "project, compiled"
OBVIOUS = "obvious, fp32"
RIVALS = {
    OBVIOUS: ["obvious"],
    "Trainer, bf16": ["trainer"],
    "TextBrewer, fp32": ["textbrewer"],
    "careful, bf16": ["careful"],
    "careful, compiled": ["careful", "--compile"],
}
SIDES = (OURS, OURS_COMPILED, *RIVALS)
_SETTING = (
    "optim=adamw",
    "optim.warmup=0",
    "optim.decay=0",
    "alpha=normal",
    "scale.width=256",
    "scale.num_heads=4",
    "scale.mlp_width=1024",
    "scale.vocab_size=8192",
    "scale.block_length=128",
    "train.batch_size=32",
)
_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.vocab_size=512",
    "scale.block_length=32",
    "train.batch_size=8",
)


class Absent(Exception):
    """A side that cannot run here, and why."""


class Side:
    """A process that takes a step when it is asked to."""

    def __init__(self, python: str, *words: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `end` closes it
        self._process = subprocess.Popen(
            [python, "-m", *words],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.loss = float("nan")

    def __call__(self) -> float:
        """Return the seconds of its next step; raises `Absent` where it has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            print(file=self._process.stdin, flush=True)
            seconds, self.loss = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self._log.seek(0)
            said = self._log.read().strip().splitlines() or ["it ended without a word"]
            raise Absent(said[-1]) from None
        return float(seconds)

    def end(self) -> None:
        """Ask for no more steps."""
        self._process.communicate()
        self._log.close()


def write_problem(folder: Path, words: Sequence[str], num_steps: int) -> int:
    """Write what all sides are given; return the tokens of a step."""
    parts = Parts.of(compose_run(words))
    run, objective = parts.run, parts.run.objective["logits"]
    assert isinstance(run.teacher, MadeTeacher) and isinstance(run.student, MadeStudent)
    assert isinstance(objective, ForwardKL)
    problem = Problem(
        causal=run.student.family.predicts is Head.causal,
        lr=run.optim.lr,
        betas=run.optim.betas,
        eps=run.optim.eps,
        weight_decay=run.optim.weight_decay,
        clip_norm=run.optim.clip_norm,
        temperature=objective.temperature,
    )
    steps = [parts.batches.batch(step) for step in range(num_steps)]
    batches = {
        "input_ids": torch.stack([batch.ids_BL for batch in steps]),
        "labels": torch.stack([_labels(batch, problem.causal) for batch in steps]),
    }
    student = make_model(run.student, run.seed, "student")
    teacher = make_model(run.teacher, run.teacher.seed, "teacher")
    problem.write(folder, student, teacher, batches)
    return parts.batches.tokens_per_step


def _labels(batch: Batch, causal: bool) -> torch.Tensor:
    if causal:
        return batch.ids_BL.clone()
    labels_BL = torch.full_like(batch.ids_BL, IGNORED)
    labels_BL.view(-1)[batch.rows_N] = batch.labels_N
    return labels_BL


class Measured(NamedTuple):
    """One family's sides: seconds in each round; why others are absent; tokens of a step.

    off: how far the loss after the checked steps is from the obvious script's, of its way down.
    """

    seconds: dict[str, list[float]]
    absent: dict[str, str]
    off: dict[str, float]
    tokens: int


def measure(
    words: Sequence[str], names: Sequence[str], python: str, rounds: int, warm_up: int
) -> Measured:
    """Check the sides, then time them; raises `AssertionError` where one trains another way."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_problem(Path(folder), words, CHECKED_STEPS + warm_up + rounds)
        commands = {
            OURS: [sys.executable, "ours", *words],
            OURS_COMPILED: [sys.executable, "ours", *words, "train.compile=true"],
            **{
                rival: [python, f"rivals.{module}", folder, *more]
                for rival, (module, *more) in RIVALS.items()
            },
        }
        sides = {name: Side(*commands[name]) for name in dict.fromkeys([OBVIOUS, *names])}
        losses, absent = {}, {}
        for name, side in sides.items():
            try:
                losses[name] = [(side(), side.loss)[1] for _ in range(CHECKED_STEPS)]
            except Absent as reason:
                absent[name] = str(reason)
        start, *_, end = losses[OBVIOUS]
        off = {name: abs(each[-1] - end) / (start - end) for name, each in losses.items()}
        assert max(off.values()) < TOLERANCE, f"not the same training: {off}, {losses}"
        seconds = in_turn({name: sides[name] for name in losses}, rounds, warm_up)
        for side in sides.values():
            side.end()
    return Measured(seconds, absent, off, tokens)


def report(measured: Measured) -> list[str]:
    """The Markdown table of one family."""
    seconds = measured.seconds
    rows = [
        [
            name,
            f"{measured.tokens / statistics.median(spent):,.0f}",
            spread([1000 * s for s in spent], 1),
            *(
                spread(ratios(spent, seconds[ours]), 2) if ours in seconds and name != ours else ""
                for ours in (OURS, OURS_COMPILED)
            ),
            f"{measured.off[name]:.1%}",
        ]
        for name, spent in seconds.items()
    ]
    headings = ["side", "tokens/s", "ms: median (min .. max)", "over the project's"]
    return [
        *table([*headings, "over compiled", f"off after {CHECKED_STEPS} steps"], rows),
        *(f"\nNot to be had: {name} ({reason})." for name, reason in measured.absent.items()),
        "",
    ]


def draw(families: dict[str, Measured], file: Path) -> None:
    """Tokens per second of every side, a panel for each family; the whiskers are the extremes."""
    figure = Figure(figsize=(4.2 * len(families), 3), layout="constrained")
    for axes, (family, measured) in zip(
        figure.subplots(1, len(families), squeeze=False)[0], families.items(), strict=True
    ):
        for side, spent in reversed(measured.seconds.items()):
            middle, least, most = (
                measured.tokens / of(spent) for of in (statistics.median, max, min)
            )
            colour = "C0" if side in (OURS, OURS_COMPILED) else "C7"
            axes.barh(side, middle, xerr=[[middle - least], [most - middle]], color=colour)
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{middle:,.0f}", (most, side), fontsize=8, **beside)
        axes.set_title(family, fontsize=10)
        axes.set_xlabel("tokens/s")
        axes.margins(x=0.2)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are thrown away")
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE", help="of: %(choices)s")
    parser.add_argument("--python", default=sys.executable, help="an interpreter for the rivals")
    parser.add_argument("--threads", type=int, help="of each side; all cores by default")
    parser.add_argument("--picture", type=Path, help="a .png to draw", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny, nothing compiled")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for dwt-train")
    options = parser.parse_args()
    if options.threads is not None:  # for the sides too
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        torch.set_num_threads(options.threads)
    rounds, warm_up = (2, 1) if options.quick else (options.rounds, options.warm_up)
    plain = [name for name in SIDES if not name.endswith("compiled")]
    sides = options.sides or (plain if options.quick else SIDES)
    lines = ["# The DWT step against its rivals", "", *provenance()]
    lines += [f"- rounds: {rounds} in turn after {warm_up} of warm-up", ""]
    families = {}
    for family in options.families:
        words = [*_SETTING, *(_QUICK if options.quick else ()), f"scale.family={family}"]
        words += ["task=clm"] if family in DECODERS else []
        words += options.overrides
        families[family] = measure(words, sides, options.python, rounds, warm_up)
        lines += [f"## {family}", "", *report(families[family])]
    print("\n".join([*lines, SMOKE] if options.quick else lines))
    if options.picture:
        draw(families, options.picture)


if __name__ == "__main__":
    main()
