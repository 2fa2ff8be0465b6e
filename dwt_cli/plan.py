"""What a run will take, before it is paid for: parameters, FLOPs, steps, memory, hours.

The models are built of fake tensors: shapes on a device that is only named, no memory, no numbers.
Each account is a function of a model and of what one device gets; bytes unless said otherwise.
Legend: B blocks of a device's micro-batch, L positions, N target rows, V vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from dwt_cli.checks import student_outline
from dwt_cli.config import CheckpointTeacher, MadeTeacher, Optim, Run, each_teacher
from dwt_cli.corpus.batches import Masking
from dwt_cli.machine import Machine
from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops, num_parameters
from dwt_cli.models.making import outline
from dwt_cli.models.opening import open_config, outline_of
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.objective.logits import CHUNK_BYTES
from dwt_cli.training.optim import Optimizer

_FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Of one device, each kind at its largest.

    weights: the student's and the teacher's. activations: what the forward pass of one micro-batch
    keeps for the backward pass. logits: the student's, the teacher's, and what losses make of them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The peak: gradients stay while the next micro-batch is read."""
        return sum(vars(self).values())


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


def optimizer_bytes(model: MaskedLM, options: Optim, num_shards: int = 1) -> int:
    """AdamW keeps two moments of each weight, Muon one, in fp32."""
    moments = {torch.optim.AdamW: 2, torch.optim.Muon: 1}
    kept = sum(
        moments[type(part)] * parameter.numel()
        for part in Optimizer(model, options).parts
        for group in part.param_groups
        for parameter in group["params"]
    )
    return kept * _FP32 // num_shards


def activation_bytes(model: MaskedLM, ids_BL: Tensor, rows_N: Tensor) -> int:
    """What autograd keeps of a forward pass, the weights themselves left out.

    Copies of weights in bf16 are counted: they are kept as activations are.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_NV = model(ids_BL, rows_N)
    assert logits_NV.requires_grad
    return sum(kept.values())


def logit_bytes(
    num_rows: int, vocab_size: int, dtype: torch.dtype, num_models: int, chunk_bytes: int
) -> int:
    """The logits (N, V) of student and teacher, their gradient, and the losses' working rows.

    The losses work in fp32 on a chunk of rows: one table per model, two where logits are bf16.
    """
    tables = (num_models + 1) * num_rows * vocab_size * dtype.itemsize
    chunk = min(chunk_bytes, num_rows * vocab_size * _FP32)
    return tables + num_models * (1 if dtype == torch.float32 else 2) * chunk


def memory(
    run: Run, machine: Machine, teachers: Sequence[PreTrainedModel], num_shards: int = 1
) -> Memory:
    """Of one device that takes the whole micro-batch and 1 / ``num_shards`` of the student."""
    num_blocks = run.train.micro_batch_size or run.train.batch_size
    length, vocab_size = run.data.block_length, run.data.vocab_size
    num_rows = num_blocks * _num_targets(run)
    with FakeTensorMode():
        model = MaskedLM(student_outline(run, machine.device), machine.dtype).train()
        ids_BL = torch.zeros(num_blocks, length, dtype=torch.long, device=machine.device)
        rows_N = torch.zeros(num_rows, dtype=torch.long, device=machine.device)
        activations = activation_bytes(model, ids_BL, rows_N)
        optimizer = optimizer_bytes(model, run.optim, num_shards)
        own = num_parameters(model) * _FP32
    theirs = sum(num_parameters(teacher) for teacher in teachers) * _FP32
    num_models = 1 + len(teachers)
    return Memory(
        weights=own // num_shards + theirs,
        gradients=own // num_shards,
        optimizer=optimizer,
        activations=activations,
        logits=logit_bytes(
            num_rows, vocab_size, machine.dtype, num_models, CHUNK_BYTES[machine.device.type]
        ),
    )


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


def flops_per_token(run: Run, model: PreTrainedModel) -> float:
    """Of one forward pass, by token that is read."""
    return forward_flops(model, 1, run.data.block_length, _num_targets(run)) / run.data.block_length


def hours(flops: float, peak_tflops: float, mfu: float) -> float:
    """Time for so many FLOPs on a device that reaches ``mfu`` (0 .. 1) of its peak."""
    return flops / (peak_tflops * 1e12 * mfu) / 3600


def print_plan(run: Run, machine: Machine, console: Console) -> None:
    """The whole account, on the terminal; nothing is read, made or trained."""
    student, teachers = student_outline(run), _teachers(run)
    table = Table(title="before the bill", show_header=False, title_justify="left")
    for name, model in {"student": student, **teachers}.items():
        parts = ", ".join(f"{part} {n:,}" for part, n in parameters_by_part(model).items())
        table.add_row(f"{name}, parameters", f"{num_parameters(model):,} ({parts})")
    own = FORWARD_AND_BACKWARD * flops_per_token(run, student)
    table.add_row("student, FLOPs per token", f"{own:,.0f} forward and backward")
    asking = {name: flops_per_token(run, model) for name, model in teachers.items()}
    for name, flops in asking.items():
        table.add_row(f"{name}, FLOPs per token", f"{flops:,.0f} forward")
    steps = num_steps(run)
    if steps is None:
        table.add_row("steps", "not known before the text is: give run.train_tokens")
    else:
        tokens = steps * run.train.batch_size * run.data.block_length
        flops = tokens * (own + sum(asking.values()))
        for name, teacher in each_teacher(run):
            if isinstance(teacher, MadeTeacher) and teacher.budget > 0:
                made = teacher.max_steps * run.train.batch_size * run.data.block_length
                flops += made * FORWARD_AND_BACKWARD * asking[name]
                table.add_row(f"{name}, steps and tokens", f"{teacher.max_steps:,}; {made:,}")
        table.add_row("student, steps and tokens", f"{steps:,}; {tokens:,}")
        table.add_row("FLOPs in all", f"{flops:.3g}")
        peak = run.run.peak_tflops
        table.add_row(
            "hours in all",
            "give run.peak_tflops, of the device in its number type"
            if peak is None
            else f"{hours(flops, peak, run.run.mfu):,.2f} at {run.run.mfu:.0%} of {peak:g} TFLOP/s",
        )
    account = memory(run, machine, list(teachers.values()))
    for kind, num_bytes in {**vars(account), "total": account.total}.items():
        table.add_row(f"memory, {kind}", f"{num_bytes / 1e9:.3f} GB")
    there = machine.memory_bytes()
    answer = "it fits" if account.total <= there else "it does not fit: lower the micro-batch size"
    table.add_row("memory there is", f"{there / 1e9:.3f} GB ({machine.device.type}): {answer}")
    console.print(table)


def _teachers(run: Run) -> dict[str, PreTrainedModel]:
    """The models that teach, by their settings' names; a virtual teacher is none."""
    models = {}
    for name, teacher in each_teacher(run):
        if isinstance(teacher, MadeTeacher):
            models[name] = outline(teacher)
        elif isinstance(teacher, CheckpointTeacher):
            models[name] = outline_of(open_config("teacher.path", teacher, any_family=True))
    return models


def _num_targets(run: Run) -> int:
    return Masking(run.task, run.data.vocab_size, 0, ()).num_targets(run.data.block_length)
