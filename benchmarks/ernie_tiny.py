"""Are four stages better than the last alone? Chains of `dwt-train -cn ernie_tiny` for five seeds.

For each seed, from one weak teacher (`--teacher`, else a stand-alone run of 2 layers), which is
fine-tuned on the task `packages` by that seed, a student of 4 layers:

- four stages: general, enhanced, adaptive, specific, in `--steps`;
- the last alone: as many steps in one stage (`chain.alone=true`), from a student of one step.

Steps are equal, FLOPs are not: they stand in the table. All figures are on the task's dev texts,
and compared seed by seed; p are corrected by Holm's procedure. The claims stand in CLAIMS, and were
committed before any run, as was a fifth, of the classes after `adaptive`: it was taken out, before
any run too, for that stage trains no head. Runs that are finished are found again.
"""

from collections.abc import Callable
from typing import Any

from chains import Program, arguments
from claims import verdicts
from provenance import provenance
from timing import SMOKE, table

Arm = dict[str, dict[str, Any]]
"""The stages of a chain by name, as `Program.stages` has them."""

_KL, _SCORES = "divergence_classes", "divergence_attention"
_STEPS, _QUICK_STEPS = [160, 80, 80, 80, 160], [6, 4, 4, 4, 4]
_TASK = ("chain.task=packages", "optim=adamw", "optim.lr=1e-3")
_QUICK = (
    *("scale.width=32", "scale.mlp_width=64", "scale.num_heads=1", "scale.eval_every=10"),
    *("train.batch_size=8", "eval.num_blocks=16"),
)
_QUICK_TASK = ("task.packages=[numpy,scipy]", "task.num_train=24", "task.num_heldout=10")


def _end(arm: Arm) -> dict[str, float]:
    """Return the metrics of the last model on dev texts."""
    heldout: dict[str, float] = arm["specific"]["summary"]["student"]["heldout"]
    return heldout


CLAIMS: tuple[tuple[str, Callable[[Arm, Arm], float]], ...] = (
    (
        "four stages end nearer to the tuned teacher's classes (KL) than the last alone",
        lambda four, alone: four["specific"][_KL] - alone["specific"][_KL],
    ),
    (
        "four stages end with a lower dev loss than the last alone",
        lambda four, alone: _end(four)["loss"] - _end(alone)["loss"],
    ),
    (
        "the tuned teacher's attention is nearer after `enhanced` than after `general`",
        lambda four, alone: four["enhanced"][_SCORES] - four["general"][_SCORES],
    ),
    (
        "it is nearer after `adaptive` than after `enhanced`",
        lambda four, alone: four["adaptive"][_SCORES] - four["enhanced"][_SCORES],
    ),
)
"""Expectations: the difference is below zero."""


def report(found: dict[int, tuple[Arm, Arm]]) -> list[str]:
    """Return the tables: what each arm came to, and what became of the claims."""
    rows = [
        (
            *(name, str(seed), " + ".join(str(stage["steps"]) for stage in arm.values())),
            f"{arm['specific']['flops_charged']:.4g}",
            f"{sum(stage['seconds'] for stage in arm.values()):.0f}",
            f"{_end(arm)['loss']:.4f}",
            f"{_end(arm)['accuracy']:.1%}",
            *(
                " > ".join(_said(stage.get(key)) for stage in arm.values())
                for key in (_KL, _SCORES)
            ),
        )
        for seed, arms in found.items()
        for name, arm in zip(("four stages", "the last alone"), arms, strict=True)
    ]
    headings = ("arm", "seed", "steps", "FLOPs charged", "seconds", "dev loss", "accuracy")
    gaps = {claim: [of(*arms) for arms in found.values()] for claim, of in CLAIMS}
    return [*table((*headings, "KL", "attention"), rows), "", *verdicts(gaps)]


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def main() -> None:
    """Run what is missing, and print the tables in Markdown."""
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=4, help="of the student")
    parser.add_argument("--steps", type=int, nargs=5, default=_STEPS, help="of each stage")
    asked = parser.parse_args()
    train = Program(asked.root, (*(_QUICK if asked.quick else ()), *asked.overrides))
    steps, seeds = (_QUICK_STEPS, asked.seeds[:1]) if asked.quick else (asked.steps, asked.seeds)
    teacher = asked.teacher
    if teacher is None:
        lines = train("teacher=none", "student.num_layers=2", f"train.max_steps={2 * sum(steps)}")
        (teacher,) = [line.removeprefix("record: ") for line in lines if line.startswith("record")]
    words = [
        *("-cn", "ernie_tiny", f"chain.teacher={teacher}", *_TASK),
        *(f"student.num_layers={asked.layers}", f"chain.steps=[{','.join(map(str, steps))}]"),
        *(_QUICK_TASK if asked.quick else ()),
    ]

    def arm(seed: int, alone: bool) -> Arm:
        stages = train.stages(*words, f"seed={seed}", f"chain.alone={str(alone).lower()}")
        return {stage["stage"]: stage for stage in stages}

    found = {seed: (arm(seed, False), arm(seed, True)) for seed in seeds}
    print("\n".join([*([SMOKE, ""] if asked.quick else []), *report(found), "", *provenance()]))


if __name__ == "__main__":
    main()
