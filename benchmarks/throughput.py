"""How fast is a DWT step, and how much of the device does it use?

Timed in turn, on random tokens: a DWT step, a stand-alone step and a teacher forward pass, each a
training or teacher of its own. MFU is the step's FLOPs in closed form over what the device reaches
in one large matrix product of the same number type, measured here as well. The peak of memory is
the device's own figure beside the plan's; on a CPU, which has no such figure, the plan's alone.
"""

import argparse
import statistics

import torch
from parts import Parts, Steps, TeacherForwards, compose_run
from provenance import provenance
from timing import SMOKE, in_turn, ratios, spread, table, timed

from dwt_cli.distill.alpha import Constant
from dwt_cli.models.flops import FORWARD_AND_BACKWARD
from dwt_cli.recipe.memory import memory
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.training.profile import matrix_peak

NO_CUDA = "No CUDA device was at hand: the figures below are of a CPU."
_DWT, _ALONE, _FORWARD = "DWT step", "stand-alone step", "teacher forward"


def report(parts: Parts, seconds: dict[str, list[float]], peak: float) -> list[str]:
    """The Markdown table."""
    run = parts.run
    tokens = run.train.batch_size * run.data.block_length
    shapes = recipe_of(run).shapes
    student = shapes.conditions.token_flops(shapes.student_model) * FORWARD_AND_BACKWARD
    teacher = sum(map(shapes.conditions.token_flops, shapes.teacher_models.values()))
    flops = {_DWT: student + teacher, _ALONE: student, _FORWARD: teacher}
    medians = {name: statistics.median(spent) for name, spent in seconds.items()}
    rows = [
        [
            name,
            spread([1000 * s for s in spent], 1),
            f"{tokens / medians[name]:,.0f}",
            f"{tokens * flops[name] / medians[name] / 1e12:.2f}",
            f"{tokens * flops[name] / medians[name] / peak:.1%}",
        ]
        for name, spent in seconds.items()
    ]
    share = spread(ratios(seconds[_FORWARD], seconds[_DWT]), 3)
    return [
        *table(["timed in turn", "ms: median (min .. max)", "tokens/s", "TFLOP/s", "MFU"], rows),
        "",
        f"- measured peak of a matrix product: {peak / 1e12:.2f} TFLOP/s",
        f"- the teacher's share of a DWT step: {share}; of its FLOPs {teacher / flops[_DWT]:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "paper" if torch.cuda.is_available() else "nano"
    parser.add_argument("--scale", default=default, help="paper on a GPU, else nano, by default")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5, help="rounds that are thrown away")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for dwt-train")
    options = parser.parse_args()
    rounds, warm_up = (2, 1) if options.quick else (options.rounds, options.warm_up)
    parts = Parts.of(compose_run([f"scale={options.scale}", *options.overrides]))
    device = parts.machine.device
    where, peak = provenance(), matrix_peak(device, parts.machine.dtype)
    alone = Constant(hard=1.0, soft=0.0)
    dwt = Steps(parts.training(parts.run.alpha, parts.signal()))
    lines = ["# Throughput", "", *where, f"- scale={options.scale}, {parts.machine.dtype}"]
    planned = memory(recipe_of(parts.run).shapes, parts.machine).total / 1e9
    peak_memory = f"- memory at its peak: planned {planned:.2f} GB"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(3):
            dwt()
        peak_memory += f", seen {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
    else:
        lines += ["", NO_CUDA]
    seconds = in_turn(
        {
            _DWT: timed(dwt, device),
            _ALONE: timed(Steps(parts.training(alone, None)), device),
            _FORWARD: timed(TeacherForwards(parts, parts.signal()), device),
        },
        rounds,
        warm_up,
    )
    lines += ["", *report(parts, seconds, peak), peak_memory]
    print("\n".join([*lines, "", SMOKE] if options.quick else lines))


if __name__ == "__main__":
    main()
