"""What a run will take, before it is paid for: parameters, FLOPs, steps, memory, hours.

On as many ranks as the run will have, and on a device that may not be here.
"""

from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import Ranks
from dwt_cli.config.run import Run, each_teacher
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.models.anatomy import anatomy_of, is_known
from dwt_cli.models.features import Features
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops, num_parameters
from dwt_cli.recipe.memory import memory, num_targets
from dwt_cli.recipe.recipe import num_taught
from dwt_cli.recipe.shapes import shown, student_outline, teacher_outlines
from dwt_cli.recipe.traffic import traffic
from dwt_cli.training.options import Fsdp

_SAMPLES = 1000  # moments of a run at which it is asked whether a teacher is listened to


def parameters_by_part(model: PreTrainedModel) -> dict[str, int]:
    """embeddings, layers (with the norm after the last one) and head; tied matrices once."""
    backbone = f"{anatomy_of(model).backbone}."
    parts = Counter({"embeddings": 0, "layers": 0, "head": 0})
    for name, parameter in model.named_parameters():
        if not name.startswith(backbone):
            parts["head"] += parameter.numel()
        elif name.startswith(f"{backbone}embeddings"):
            parts["embeddings"] += parameter.numel()
        else:
            parts["layers"] += parameter.numel()
    return dict(parts)


def num_steps(run: Run) -> int | None:
    """Steps of the run; None while the length of the text is not known."""
    train = run.train
    limits = [train.max_steps] if train.max_steps is not None else []
    if train.epochs is not None:
        if run.run.train_tokens is None:
            return None
        tokens = train.epochs * run.run.train_tokens
        limits.append(round(tokens / (train.batch_size * run.data.block_length)))
    return min(limits, default=None)


def flops_per_token(run: Run, model: PreTrainedModel, seen: Features | None = None) -> float:
    """Of one forward pass, by token that is read; ``seen``: what is looked at inside the model."""
    length = run.data.block_length
    return forward_flops(model, 1, length, num_targets(run), seen) / length


def flops_in_all(run: Run) -> float | None:
    """Of the student, of asking its teachers, and of training those that are trained here.

    A schedule that reacts is taken to listen as it does while nothing happens.
    """
    steps = num_steps(run)
    if steps is None:
        return None
    per_step = run.train.batch_size * run.data.block_length
    samples = min(steps, _SAMPLES)
    taught = steps * num_taught(run.alpha, samples) / samples
    student, (ours, theirs) = student_outline(run), shown(run)
    flops = (steps - taught) * FORWARD_AND_BACKWARD * flops_per_token(run, student)
    flops += taught * FORWARD_AND_BACKWARD * flops_per_token(run, student, ours)
    options = dict(each_teacher(run))
    for name, model in teacher_outlines(run).items():
        flops += taught * flops_per_token(run, model, theirs)
        flops += _own_steps(options[name]) * FORWARD_AND_BACKWARD * flops_per_token(run, model)
    return per_step * flops


def hours(flops: float, peak_tflops: float, mfu: float) -> float:
    """Time for so many FLOPs on a device that reaches ``mfu`` (0 .. 1) of its peak."""
    return flops / (peak_tflops * 1e12 * mfu) / 3600


def print_plan(run: Run, ranks: Ranks, console: Console) -> None:
    """The whole account, on the terminal; nothing is read, made or trained."""
    if run.run.device_gb is None:
        machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision, ranks)
    else:
        machine = Machine.elsewhere(run.run.device_gb, run.train.precision)
    num_ranks = max(ranks.size, run.launch.num_ranks)
    table = Table(title="before the bill", show_header=False, title_justify="left")
    for rows in (_of_models(run), _of_time(run, num_ranks), _of_ranks(run, machine, num_ranks)):
        for row in rows:
            table.add_row(*row)
    console.print(table)


def _of_models(run: Run) -> Iterator[tuple[str, str]]:
    student, teachers = student_outline(run), teacher_outlines(run)
    for name, model in {"student": student, **teachers}.items():
        said = f"{num_parameters(model):,}"
        if is_known(model.config):
            parts = ", ".join(f"{part} {n:,}" for part, n in parameters_by_part(model).items())
            said += f" ({parts})"
        yield f"{name}, parameters", said
    ours, theirs = shown(run)
    own = FORWARD_AND_BACKWARD * flops_per_token(run, student, ours)
    yield "student, FLOPs per token", f"{own:,.0f} forward and backward"
    for name, model in teachers.items():
        yield f"{name}, FLOPs per token", f"{flops_per_token(run, model, theirs):,.0f} forward"


def _of_time(run: Run, num_ranks: int) -> Iterator[tuple[str, str]]:
    steps, flops, peak = num_steps(run), flops_in_all(run), run.run.peak_tflops
    if steps is None or flops is None:
        yield "steps", "not known before the text is: give run.train_tokens"
        return
    per_step = run.train.batch_size * run.data.block_length
    for name, teacher in each_teacher(run):
        if made := _own_steps(teacher):
            yield f"{name}, steps and tokens", f"{made:,}; {made * per_step:,}"
    yield "student, steps and tokens", f"{steps:,}; {steps * per_step:,}"
    yield "FLOPs in all", f"{flops:.3g}"
    if peak is None:
        yield "hours in all", "give run.peak_tflops, of the device in its number type"
    else:
        time = hours(flops, num_ranks * peak, run.run.mfu)
        where = f"{run.run.mfu:.0%} of {peak:g} TFLOP/s"
        yield "hours in all", f"{time:,.2f} at {where}{_on_each(num_ranks)}"


def _of_ranks(run: Run, machine: Machine, num_ranks: int) -> Iterator[tuple[str, str]]:
    """What each rank reads, holds and sends."""
    num_parts = run.train.num_parts(num_ranks)
    micro_batch = run.train.batch_size // num_ranks // num_parts
    yield "micro-batch", f"{micro_batch:,} sequences, {num_parts} in a step{_on_each(num_ranks)}"
    if num_ranks > 1:
        sent = traffic(
            run.parallel,
            num_parameters(student_outline(run)),
            machine.dtype,
            num_parts,
            sum(map(num_parameters, teacher_outlines(run).values())),
        ).sent(num_ranks)
        way = "fsdp" if isinstance(run.parallel, Fsdp) else "ddp"
        yield "sent in a step", f"{sent / 1e9:.3f} GB by each rank ({way}, ring)"
    account = memory(run, machine, num_ranks)
    for kind, num_bytes in {**account.kinds, "at its peak": account.total}.items():
        yield f"memory, {kind}", f"{num_bytes / 1e9:.3f} GB{_on_each(num_ranks)}"
    if account.offloaded:
        kept = f"{account.offloaded / 1e9:.3f} GB"
        yield "memory of the machine, offloaded", f"{kept}{_on_each(num_ranks)}"
    there, device = machine.memory_bytes, machine.device.type
    answer = "it fits"
    if account.total > there:
        answer = "it does not fit: lower train.micro_batch_size, or take parallel=fsdp"
    yield "memory there is", f"{there / 1e9:.3f} GB ({device}): {answer}"


def _own_steps(teacher: object) -> int:
    """Of a teacher that is trained here."""
    return teacher.max_steps if isinstance(teacher, MadeTeacher) and teacher.budget > 0 else 0


def _on_each(num_ranks: int) -> str:
    return f" on each of {num_ranks} ranks" if num_ranks > 1 else ""
