"""Does a weak teacher help, also at equal compute? DWT against the stand-alone student, in pairs.

For each seed `dwt-train` runs, as a user would run it, one after the other:

- stand-alone: teacher=none;
- DWT normal: alpha=normal, and DWT decay: alpha=decay, both with teacher=small;
- stand-alone + teacher forward: longer, by the FLOPs of DWT decay's teacher forward passes;
- stand-alone + whole teacher: longer, by those and the teacher's own pre-training.

The longer ones train for total FLOPs / student FLOPs per step, both from the cost section of DWT
decay's summary.json; their learning-rate schedule spans their own length.

How to read it: losses are held-out, in nats per masked token; the arms of a seed share text, masks
and initial student, so differences are taken seed by seed, and the interval is Student's t over
seeds at 95%. Below 0 the first one named is better; an interval across 0 decides nothing. All seeds
learn from one teacher: the interval does not tell how teachers differ. The teacher is trained once
and charged here to a single student, which is the hardest account.

Runs that are finished are found again by `dwt-train` itself: the same command goes on where it
stopped.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import provenance
from timing import table

ALONE, NORMAL, DECAY = "stand-alone", "DWT normal", "DWT decay"
LONGER, LONGEST = "stand-alone + teacher forward", "stand-alone + whole teacher"
_ARMS = (ALONE, NORMAL, DECAY, LONGER, LONGEST)
_PAIRS = (
    (NORMAL, ALONE),
    (DECAY, ALONE),
    (LONGER, ALONE),
    (LONGEST, ALONE),
    (DECAY, LONGER),
    (DECAY, LONGEST),
)
_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.max_steps=4",
    "scale.teacher_steps=4",
    "scale.eval_every=4",
    "train.batch_size=8",
    "eval.num_blocks=8",
)
# the 0.975 quantile of Student's t at 1, 2, ... degrees of freedom
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Summary = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """`dwt-train` with what all arms have in common."""

    root: Path
    overrides: tuple[str, ...]

    def __call__(self, seed: int, *arm: str) -> Summary:
        """The summary of a run, which is started unless it is finished."""
        settings = dict(override.partition("=")[::2] for override in (*self.overrides, *arm))
        words = [f"{name}={value}" for name, value in settings.items()]
        program = Path(sys.executable).with_name("dwt-train")
        print(f"seed {seed}: {' '.join(arm)}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [str(program), *words, f"seed={seed}", f"run.root={self.root}", "tracker=none"],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"dwt-train {' '.join(words)}: {done.stderr.strip()}")
        return _summary(done.stdout)


def _summary(output: str) -> Summary:
    """The last thing that `dwt-train` prints of a run is where its record is."""
    folders = [
        line.removeprefix("record: ") for line in output.splitlines() if line.startswith("record: ")
    ]
    summary: Summary = json.loads((Path(folders[-1]) / "summary.json").read_text(encoding="utf-8"))
    return summary


# -------------------------------------------------------------------------------------- the runs


def run_arms(command: Command, seed: int) -> dict[str, Summary]:
    """Every arm of one seed."""
    arms = {
        ALONE: command(seed, "teacher=none"),
        NORMAL: command(seed, "teacher=small", "alpha=normal"),
        DECAY: command(seed, "teacher=small", "alpha=decay"),
    }
    cost = arms[DECAY]["cost"]
    charged = cost["teacher_forward_flops"]
    in_full = charged + cost["teacher_pretraining_flops"]
    for arm, flops in ((LONGER, charged), (LONGEST, in_full)):
        arms[arm] = command(
            seed,
            "teacher=none",
            "train.epochs=null",
            f"train.max_steps={steps_for(arms[DECAY], flops)}",
        )
    return arms


def steps_for(dwt: Summary, more_flops: float) -> int:
    """Steps of a stand-alone student that has the DWT student's FLOPs and these."""
    student_flops = dwt["cost"]["student_flops"]
    per_step = student_flops / dwt["student"]["steps"]
    return round((student_flops + more_flops) / per_step)


# ------------------------------------------------------------------------------------- the tables


def report(by_seed: Mapping[int, Mapping[str, Summary]]) -> list[str]:
    """Losses, differences, cost and the teacher, in Markdown."""
    return [
        "## Held-out loss",
        "",
        *_losses(by_seed),
        "",
        "## Differences, seed by seed",
        "",
        *_differences(by_seed),
        "",
        "## Cost of one run, mean over seeds",
        "",
        *_costs(by_seed),
        "",
        *_teacher(by_seed),
    ]


def _losses(by_seed: Mapping[int, Mapping[str, Summary]]) -> list[str]:
    rows = []
    for arm in _ARMS:
        losses = [_loss(arms[arm]) for arms in by_seed.values()]
        rows.append([arm, *[f"{loss:.4f}" for loss in losses], f"{statistics.mean(losses):.4f}"])
    return table(["arm", *[f"seed {seed}" for seed in by_seed], "mean"], rows)


def _differences(by_seed: Mapping[int, Mapping[str, Summary]]) -> list[str]:
    rows = []
    for one, other in _PAIRS:
        differences = [_loss(arms[one]) - _loss(arms[other]) for arms in by_seed.values()]
        rows.append(
            [
                f"{one} minus {other}",
                *[f"{difference:+.4f}" for difference in differences],
                f"{statistics.mean(differences):+.4f}",
                interval(differences),
            ]
        )
    return table(["pair", *[f"seed {seed}" for seed in by_seed], "mean", "95% interval"], rows)


def interval(differences: Sequence[float]) -> str:
    """Of the mean, by Student's t."""
    count = len(differences)
    if count < 2:
        return "one seed: none"
    half = _T_975[count - 2] * statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.mean(differences)
    return f"{mean - half:+.4f} .. {mean + half:+.4f}"


def _costs(by_seed: Mapping[int, Mapping[str, Summary]]) -> list[str]:
    def mean(arm: str, of: Callable[[Summary], float]) -> float:
        return statistics.mean(of(arms[arm]) for arms in by_seed.values())

    def cost(arm: str, name: str) -> float:
        return mean(arm, lambda summary: summary["cost"][name])

    flops = ("student_flops", "teacher_forward_flops", "teacher_pretraining_flops")
    rows = []
    for arm in _ARMS:
        tera = [cost(arm, name) / 1e12 for name in flops]
        rows.append(
            [
                arm,
                f"{mean(arm, lambda summary: summary['student']['steps']):.0f}",
                *[f"{count:.3g}" for count in (*tera, sum(tera))],
                f"{cost(arm, 'student_seconds'):.1f}",
                f"{cost(arm, 'teacher_pretraining_seconds'):.1f}",
            ]
        )
    return table(
        [
            "arm",
            "steps",
            "student TFLOP",
            "teacher forward TFLOP",
            "teacher pre-training TFLOP",
            "all TFLOP",
            "seconds",
            "seconds of the teacher's pre-training",
        ],
        rows,
    )


def _teacher(by_seed: Mapping[int, Mapping[str, Summary]]) -> list[str]:
    loss = next(iter(by_seed.values()))[DECAY]["teacher"]["heldout"]["loss"]
    alone = statistics.mean(_loss(arms[ALONE]) for arms in by_seed.values())
    side = "behind" if loss > alone else "ahead of"
    return [
        f"Teacher: held-out loss {loss:.4f}, {abs(loss - alone):.4f} {side} the stand-alone "
        "student of equal steps (mean over seeds)."
    ]


def _loss(summary: Summary) -> float:
    loss: float = summary["student"]["heldout"]["loss"]
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=[],
        metavar="OVERRIDE",
        help="as for dwt-train, the same for every arm, e.g. scale.max_steps=800",
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="run.root of every run")
    parser.add_argument(
        "--out", type=Path, default=Path("equal_compute.md"), help="where the report is written"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: one seed, tiny runs in a folder that is thrown away; "
        "its five processes take most of its time",
    )
    options = parser.parse_args()
    if len(set(options.seeds)) != len(options.seeds) or len(options.seeds) > len(_T_975) + 1:
        parser.error(f"--seeds: up to {len(_T_975) + 1} different ones")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if options.quick else options.root
        overrides = (*(_QUICK if options.quick else ()), *options.overrides)
        seeds = options.seeds[:1] if options.quick else options.seeds
        command = Command(root.absolute(), overrides)
        where = provenance()
        by_seed = {seed: run_arms(command, seed) for seed in seeds}
    text = "\n".join(
        ["# DWT at equal steps and at equal compute", "", *where, "", *report(by_seed), ""]
    )
    print(text, end="")
    if not options.quick:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
