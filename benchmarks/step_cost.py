"""What does listening to a teacher cost? At most its forward pass and 3% more, is the claim.

Timed in turn, on random tokens, each with a student of its own: a DWT step, a stand-alone step,
a teacher forward pass by itself, and a step with alpha=off. A step is the loop's own: batch,
forward, backward, clipping, optimiser. The students start alike; the teacher is frozen.

How to read it: "DWT / (stand-alone + teacher forward)" is what the soft loss adds beyond the two
things that nobody can save; 1.00 is nothing. "alpha=off / stand-alone" is 1.00 when a teacher that
is never listened to costs nothing. Ratios are taken round by round, which cancels what slows the
whole machine down; their median is the figure.

Sizes are those of a composed config: `--scale`, and any override of `dwt-train` after it. What one
more setting adds is timed beside them: ``--more "objective=[logits,masked_hidden]"``. The peak of
memory is the plan's, which the tests hold against torch's own trackers.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

from parts import Parts, Steps, TeacherForwards, compose_run
from provenance import provenance
from timing import SMOKE, in_turn, ratios, spread, table, timed

from dwt_cli.base.machine import Machine
from dwt_cli.config.run import Run
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.models.options import MadeStudent
from dwt_cli.recipe.memory import memory
from dwt_cli.recipe.recipe import recipe_of

CLAIM = 1.03
_DWT, _ALONE, _FORWARD, _OFF = "DWT step", "stand-alone step", "teacher forward", "alpha=off step"
_MORE = "DWT step with --more"
_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.vocab_size=512",
    "train.batch_size=8",
)  # its figures mean nothing


def measure(run: Run, more: Run | None, rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Seconds of each of the four, per round, and of a DWT step of another run."""
    parts = Parts.of(run)
    alone = Constant(hard=1.0, soft=0.0)
    things: dict[str, Callable[[], None]] = {
        _DWT: Steps(parts.training(run.alpha, parts.signal())),
        _ALONE: Steps(parts.training(alone, None)),
        _FORWARD: TeacherForwards(parts, parts.signal()),
        _OFF: Steps(parts.training(alone, parts.signal())),
    }
    if more:
        parts = Parts.of(more)
        things[_MORE] = Steps(parts.training(more.alpha, parts.signal()))
    return in_turn(
        {name: timed(work, parts.machine.device) for name, work in things.items()}, rounds, warm_up
    )


def report(seconds: dict[str, list[float]]) -> list[str]:
    """The Markdown tables."""
    dwt = _ratios_to_claim(seconds)
    off = ratios(seconds[_OFF], seconds[_ALONE])
    more = ratios(seconds[_MORE], seconds[_DWT]) if _MORE in seconds else None
    return [
        *table(
            ["timed in turn", "ms: median (min .. max)"],
            [[name, spread([1000 * s for s in spent], 1)] for name, spent in seconds.items()],
        ),
        "",
        *table(
            ["ratio per round", "median (min .. max)"],
            [
                [f"{_DWT} / ({_ALONE} + {_FORWARD})", spread(dwt, 3)],
                [f"{_OFF} / {_ALONE}", spread(off, 3)],
                *([[f"{_MORE} / {_DWT}", spread(more, 3)]] if more else []),
            ],
        ),
        "",
    ]


def verdict(seconds: dict[str, list[float]]) -> str:
    """Whether the claim holds for these sizes on this machine."""
    holds = "holds" if statistics.median(_ratios_to_claim(seconds)) <= CLAIM else "does not hold"
    return f"The claim, a median of at most {CLAIM}, {holds}."


def _ratios_to_claim(seconds: dict[str, list[float]]) -> list[float]:
    both = [a + b for a, b in zip(seconds[_ALONE], seconds[_FORWARD], strict=True)]
    return ratios(seconds[_DWT], both)


def _sizes(run: Run) -> str:
    student, teacher, train = run.student, run.teacher, run.train
    assert isinstance(teacher, MadeTeacher) and isinstance(student, MadeStudent)
    return (
        f"- sizes: {student.family.name} {student.num_layers}x{student.width}, teacher "
        f"{teacher.num_layers}x{teacher.width}, vocabulary {student.vocab_size}, "
        f"{train.batch_size} blocks of {run.data.block_length}, parts of "
        f"{train.micro_batch_size or train.batch_size}, {type(run.optim).__name__}"
    )


def _memory(run: Run) -> str:
    machine = Machine.of(run.launch.device, None, run.train.precision)
    shapes = recipe_of(run).shapes
    both, alone = memory(shapes, machine), memory(replace(shapes, teachers={}), machine)
    parts = alone.total + both.weights - alone.weights
    return (
        f"- memory: {both.total / 1e6:,.1f} MB at the peak of a DWT step, {both.total / parts:.3f} "
        f"of a stand-alone step's {alone.total / 1e6:,.1f} and the teacher's weights"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="nano", help="a choice of conf/scale (default: nano)")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=5, help="rounds that are thrown away")
    parser.add_argument("--more", metavar="WORDS", help="of dwt-train: what one more setting adds")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, 3 rounds")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for dwt-train, e.g. teacher=very_weak train.batch_size=16",
    )
    options = parser.parse_args()
    overrides = [f"scale={options.scale}", *(_QUICK if options.quick else ()), *options.overrides]
    rounds, warm_up = (3, 1) if options.quick else (options.rounds, options.warm_up)
    run = compose_run(overrides)
    more = compose_run([*overrides, *options.more.split()]) if options.more else None
    where = provenance()
    seconds = measure(run, more, rounds, warm_up)
    lines = [
        "# What a DWT step costs",
        "",
        *where,
        _sizes(run),
        _memory(run),
        f"- rounds: {rounds} in turn after {warm_up} of warm-up",
        "",
        *report(seconds),
        SMOKE if options.quick else verdict(seconds),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
