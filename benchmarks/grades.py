"""Does growing in grades pay? Chains of `dwt-train -cn grades` against growing at once.

For each seed, all from one weak teacher (`--teacher`, else a stand-alone run of 2 layers):

- grades: every layer count of `--layers` in turn, each start stacked from the one before, which
  teaches for the first fifth of the steps (alpha=step);
- grades alone: the same starts, and no teacher beside them (alpha=off);
- at once: a chain of the last grade alone, from random weights, taught by the weak teacher;
- at once, stacked: the same, stacked from the weak teacher, which is then silent.

All are as long as the FLOPs of `grades` allow, teachers' forward passes and all grades counted, as
chain.json has them; the first grade's teacher is sunk for all arms alike. Losses are held-out, in
nats per target, and compared seed by seed; p are corrected by Holm's procedure. The claims stand in
CLAIMS, and were written before anything ran. Runs that are finished are found again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import provenance
from timing import SMOKE, table

from dwt_cli.study.comparisons import difference, holm

GRADES, ALONE = "grades", "grades alone"
ONCE, STACKED = "at once", "at once, stacked"

CLAIMS = (
    ("grades with teaching end below growing at once with teaching", GRADES, ONCE),
    ("grades with teaching end below stacking at once", GRADES, STACKED),
    ("a grade still gains by its teacher", GRADES, ALONE),
    ("grades by weights alone end below stacking at once", ALONE, STACKED),
)
"""Expectations: the first arm ends with the lower loss."""

_QUICK = (
    *("scale.width=32", "scale.mlp_width=64", "scale.num_heads=1", "scale.eval_every=10"),
    *("train.batch_size=8", "eval.num_blocks=16"),
)


@dataclass(frozen=True)
class Program:
    """`dwt-train` with the words that all of its commands have."""

    root: Path
    words: tuple[str, ...]

    def __call__(self, *words: str) -> list[str]:
        """Return the lines that a command prints, which is told so on stderr."""
        command = [*words, *self.words, f"run.root={self.root}", "tracker=none"]
        print(shlex.join(["dwt-train", *command]), file=sys.stderr, flush=True)
        program = str(Path(sys.executable).with_name("dwt-train"))
        done = subprocess.run([program, *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-500:]}{done.stderr}")
        return done.stdout.splitlines()

    def chain(self, teacher: str, layers: Sequence[int], *words: str) -> list[dict[str, Any]]:
        """Return the stages of a finished chain, each with the summary of its run."""
        several = f"chain.layers=[{','.join(map(str, layers))}]"
        return self.stages("-cn", "grades", f"chain.teacher={teacher}", several, *words)

    def stages(self, *words: str) -> list[dict[str, Any]]:
        """Return the stages of any chain, once it is finished, as `chain` does."""
        lines = self(*words)
        (file,) = [line.removeprefix("json: ") for line in lines if line.startswith("json: ")]
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        folders = [Path(file).parent / link["folder"] for link in content["links"]]
        texts = [(folder / "summary.json").read_text(encoding="utf-8") for folder in folders]
        stages = [row for row in content["table"] if row["kind"] == "stage"]
        return [
            row | {"summary": json.loads(text)} for row, text in zip(stages, texts, strict=True)
        ]


def arms(
    train: Program, teacher: str, layers: Sequence[int], steps: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the stages of each arm of a seed, all at the FLOPs of `GRADES`."""
    length = f"seed={seed}", f"train.max_steps={steps}"
    graded = train.chain(teacher, layers, *length)
    flops, students = graded[-1]["flops_charged"], [each["summary"] for each in graded]
    alone = [each["student"]["step_flops"] for each in students]
    first = students[0]["student"]
    asked = first["teacher_forward_flops"] / first["num_taught"]
    taught = alone[-1] + first["num_taught"] / first["steps"] * asked

    def lasting(step_flops: float) -> tuple[str, str]:
        return f"seed={seed}", f"train.max_steps={round(flops / step_flops)}"

    last, silent = layers[-1:], "alpha=off"
    return {
        GRADES: graded,
        ALONE: train.chain(teacher, layers, silent, *lasting(sum(alone))),
        ONCE: train.chain(teacher, last, "remap=random", *lasting(taught)),
        STACKED: train.chain(teacher, last, silent, *lasting(alone[-1])),
    }


def report(found: dict[int, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Return the tables: what each arm came to, and what became of the claims."""
    rows = [
        (
            *(arm, str(seed), " + ".join(str(stage["steps"]) for stage in stages)),
            *(f"{stages[-1]['flops_charged']:.4g}", f"{sum(s['seconds'] for s in stages):.0f}"),
            f"{stages[-1]['heldout_after']:.4f}",
        )
        for seed, each in found.items()
        for arm, stages in each.items()
    ]
    headings = ("arm", "seed", "steps", "FLOPs charged", "seconds", "held-out loss")
    gaps = [
        difference(
            [of[a][-1]["heldout_after"] - of[b][-1]["heldout_after"] for of in found.values()]
        )
        for _, a, b in CLAIMS
    ]
    ps = holm([1.0 if gap is None or gap.p is None else gap.p for gap in gaps])
    judged = []
    for (claim, *_), gap, p in zip(CLAIMS, gaps, ps, strict=True):
        assert gap is not None, "there is a seed"
        holds = gap.mean < 0 and p < 0.05
        interval = "one seed" if gap.low is None else f"[{gap.low:+.4f}, {gap.high:+.4f}]"
        verdict = "holds" if holds else "the reverse" if p < 0.05 else "undecided"
        judged.append((claim, f"{gap.mean:+.4f}", interval, f"{p:.3f}", verdict))
    claims = table(("claim", "difference", "95%", "p", "verdict"), judged)
    return [*table(headings, rows), "", *claims]


def main() -> None:
    """Run what is missing, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--teacher", help="a run's folder; by default one of 2 layers is trained")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--steps", type=int, default=240, help="of each grade")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--overrides", nargs="*", default=[], help="words of every run")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    asked = parser.parse_args()
    train = Program(asked.root, (*(_QUICK if asked.quick else ()), *asked.overrides))
    steps, seeds = (20, asked.seeds[:1]) if asked.quick else (asked.steps, asked.seeds)
    teacher = asked.teacher
    if teacher is None:
        own = ("teacher=none", "student.num_layers=2", f"train.max_steps={steps}", "seed=100")
        lines = train(*own)
        (teacher,) = [line.removeprefix("record: ") for line in lines if line.startswith("record")]
    found = {seed: arms(train, teacher, asked.layers, steps, seed) for seed in seeds}
    print("\n".join([*([SMOKE, ""] if asked.quick else []), *report(found), "", *provenance()]))


if __name__ == "__main__":
    main()
