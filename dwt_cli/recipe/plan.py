"""What a run will take, before it is paid for: parameters, FLOPs, steps, memory, hours.

On as many ranks as the run will have, and on a device that may not be here.
"""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from dwt_cli.base.cache import Cache
from dwt_cli.base.machine import Machine
from dwt_cli.config.run import RunOptions
from dwt_cli.models.anatomy import anatomy_of, is_known
from dwt_cli.models.flops import num_parameters, num_trained
from dwt_cli.recipe.memory import memory, sent, traffic
from dwt_cli.recipe.order import num_tokens
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.student import StudentStage


def parameters_by_part(model: PreTrainedModel) -> dict[str, int]:
    """Return embeddings, layers (with the norm after the last one) and head; tied ones once."""
    anatomy = anatomy_of(model)
    parts = {"embeddings": 0, "layers": 0, "head": 0}
    for name, parameter in model.named_parameters():
        inside = "layers" if name.startswith(f"{model.base_model_prefix}.") else "head"
        part = "embeddings" if name.startswith(anatomy.embeddings) else inside
        parts[part] += parameter.numel()
    return parts


def flops_in_all(student: StudentStage) -> float | None:
    """Return the FLOPs of all trainings; None while the length of the text is not known."""
    costs = [stage.cost({}) for stage in student.stages]
    return None if None in costs else sum(cost or 0.0 for cost in costs)


def hours(flops: float, peak_tflops: float, mfu: float) -> float:
    """Return the time for so many FLOPs on a device that reaches ``mfu`` (0 .. 1) of its peak."""
    return flops / (peak_tflops * 1e12 * mfu) / 3600


def print_plan(
    student: StudentStage, options: RunOptions, machine: Machine, num_ranks: int, console: Console
) -> None:
    """Print the whole account; nothing is read, made or trained."""
    table = Table(title="before the bill", show_header=False, title_justify="left")
    for row in (
        *_models(student.shapes),
        *_time(student, options, num_ranks),
        *_each_rank(student.shapes, machine, num_ranks),
    ):
        table.add_row(*row)
    console.print(table)


def _models(shapes: Shapes) -> Iterator[tuple[str, str]]:
    student, teachers = shapes.student_model, shapes.teacher_models
    for name, model in {"student": student, **teachers}.items():
        size = f"{num_parameters(model):,}"
        if is_known(model.config):
            parts = ", ".join(f"{part} {n:,}" for part, n in parameters_by_part(model).items())
            size += f" ({parts})"
        if (trained := num_trained(model)) < num_parameters(model):
            size += f"; {trained:,} are trained"
        yield f"{name}, parameters", size
    ours, theirs = shapes.features
    own = shapes.conditions.training_flops(student, ours) / shapes.conditions.tokens_per_step
    yield "student, FLOPs per token", f"{own:,.0f} forward and backward"
    for name in teachers:
        forward = shapes.answer_flops(name, theirs) / shapes.conditions.tokens_per_step
        learning = shapes.learning_flops.get(name, 0) / shapes.conditions.tokens_per_step
        more = f", {learning:,.0f} for what it learns" if learning else ""
        yield f"{name}, FLOPs per token", f"{forward:,.0f} forward{more}"
        if windows := shapes.windows.get(name):
            number = shapes.num_windows(name)
            yield f"{name}, windows of a block", f"{number} of {windows.length} positions"


def _time(student: StudentStage, options: RunOptions, num_ranks: int) -> Iterator[tuple[str, str]]:
    steps, flops, peak = student.num_steps({}), flops_in_all(student), options.peak_tflops
    if steps is None or flops is None:
        yield "steps", "not known before the text is: give run.train_tokens"
        return
    per_step = student.shapes.conditions.tokens_per_step
    lengths = {
        name: each.made.max_steps
        for name, each in student.shapes.teachers.items()
        if each.made and each.made.budget > 0
    }
    for name, length in (lengths | {"student": steps}).items():
        yield f"{name}, steps and tokens", f"{length:,}; {length * per_step:,}"
    if student.crossing:
        yield "the teacher is left", student.crossing.planned(Cache(options.cache, print))
    if student.teacher and (chosen := student.order.chosen) and (tokens := num_tokens(student, {})):
        there = tokens // student.corpus.data.block_length
        read = f"{chosen.num_chosen(there):,} of {there:,}"
        yield "blocks that are read", f"{read}, scored by {len(student.scores)} models"
    if student.cached and (blocks := student.cached.num_blocks({})) is not None:
        size = blocks * student.cached.most_bytes / 1e9
        yield "the teacher is asked once", f"{blocks:,} blocks at most, {size:.3g} GB in the cache"
        if student.cached.options.imported:
            yield "its answers", "are imported: what they took is not known, and not counted"
    yield "FLOPs in all", f"{flops:.3g}"
    if peak is None:
        yield "hours in all", "give run.peak_tflops, of the device in its number type"
    else:
        time = hours(flops, num_ranks * peak, options.mfu)
        where = f"{options.mfu:.0%} of {peak:g} TFLOP/s"
        yield "hours in all", f"{time:,.2f} at {where}{on_each(num_ranks)}"


def _each_rank(shapes: Shapes, machine: Machine, num_ranks: int) -> Iterator[tuple[str, str]]:
    """Yield what each rank reads, holds and sends."""
    train = shapes.conditions.train
    sharding = shapes.conditions.parallel.sharding(num_ranks)
    num_parts = train.num_parts(num_ranks)
    yield (
        "micro-batch",
        f"{train.num_blocks(num_ranks):,} sequences, {num_parts} in a step{on_each(num_ranks)}",
    )
    if num_ranks > 1:
        size, trained = (count(shapes.student_model) for count in (num_parameters, num_trained))
        theirs = sum(map(num_parameters, shapes.models_beside.values()))
        each = traffic(sharding, size, machine.dtype, num_parts, theirs, trained)
        in_a_step = sent(each, num_ranks)
        way = "fsdp" if sharding else "ddp"
        yield "sent in a step", f"{in_a_step / 1e9:.3f} GB by each rank ({way}, ring)"
    account = memory(shapes, machine, num_ranks)
    sizes = {f"memory, {kind}": size for kind, size in account.kinds.items()}
    sizes["memory, at its peak"] = account.total
    if account.offloaded:
        sizes["memory of the machine, offloaded"] = account.offloaded
    for name, size in sizes.items():
        yield name, f"{size / 1e9:.3f} GB{on_each(num_ranks)}"
    there, device = machine.memory_bytes, machine.device.type
    answer = "it fits"
    if account.total > there:
        answer = "it does not fit: lower train.micro_batch_size, or take parallel=fsdp"
    yield "memory there is", f"{there / 1e9:.3f} GB ({device}): {answer}"


def on_each(num_ranks: int) -> str:
    """Return the words that follow what each of several ranks has."""
    return f" on each of {num_ranks} ranks" if num_ranks > 1 else ""
