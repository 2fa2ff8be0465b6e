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

from collections.abc import Sequence
from typing import Any

from chains import Program, arguments
from claims import verdicts
from provenance import provenance
from timing import SMOKE, table

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


def chain(train: Program, teacher: str, layers: Sequence[int], *words: str) -> list[dict[str, Any]]:
    """Return the grades of a finished chain."""
    several = f"chain.layers=[{','.join(map(str, layers))}]"
    return train.stages("-cn", "grades", f"chain.teacher={teacher}", several, *words)


def arms(
    train: Program, teacher: str, layers: Sequence[int], steps: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the stages of each arm of a seed, all at the FLOPs of `GRADES`."""
    length = f"seed={seed}", f"train.max_steps={steps}"
    graded = chain(train, teacher, layers, *length)
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
        ALONE: chain(train, teacher, layers, silent, *lasting(sum(alone))),
        ONCE: chain(train, teacher, last, "remap=random", *lasting(taught)),
        STACKED: chain(train, teacher, last, silent, *lasting(alone[-1])),
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
    ends = {
        claim: [of[a][-1]["heldout_after"] - of[b][-1]["heldout_after"] for of in found.values()]
        for claim, a, b in CLAIMS
    }
    return [*table(headings, rows), "", *verdicts(ends)]


def main() -> None:
    """Run what is missing, and print the tables in Markdown."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--steps", type=int, default=240, help="of each grade")
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
