"""What one device holds while it trains, by kind, and what ranks send, without training.

The student is built of fake tensors and called once: shapes, no numbers. Bytes everywhere.
Legend: B blocks of a device's micro-batch, L positions, N target rows, V vocabulary, D width.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.modeling_utils import local_torch_dtype

from dwt_cli.base.machine import Machine
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.fused import CHUNK_BYTES, FUSED_BYTES, TILE_BYTES
from dwt_cli.distill.teacher.online import OnlineSignal
from dwt_cli.models.anatomy import is_known, layers_of
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.flops import num_parameters, num_trained
from dwt_cli.models.making import outline
from dwt_cli.models.wrapper import Classifier, LanguageModel, Want, Wrapper
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import Fsdp

_FP32 = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, each kind at its largest.

    weights: its share of the student's, and of the teachers', which a rank has whole if they are
    not sharded. gradients: from one micro-batch to the next, or from the backward pass to the
    optimiser. gathered: the layers that FSDP has whole at one time. activations: what the forward
    pass of one micro-batch keeps for the backward pass. logits: the student's, the teachers', and
    what losses make of them; more, where teachers need more than all of that to answer. offloaded:
    what is in the machine's memory instead of the device's. gradients_stay: whether they are there
    while a forward pass runs.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int = 0
    activations: int = 0
    logits: int = 0
    offloaded: int = 0
    gradients_stay: bool = True

    @property
    def kinds(self) -> dict[str, int]:
        """Bytes of the device, by kind."""
        apart = ("gradients_stay", "offloaded")
        return {kind: size for kind, size in vars(self).items() if kind not in apart}

    @property
    def total(self) -> int:
        """The peak. Gradients that do not stay take the place of activations."""
        passing = self.activations + self.logits
        if self.gradients_stay:
            return sum(self.kinds.values())
        return self.weights + self.optimizer + self.gathered + max(passing, self.gradients)


def memory(shapes: Shapes, machine: Machine, num_ranks: int = 1) -> Memory:
    """Return what each of ``num_ranks`` ranks holds.

    For a device that is not here the attention of a GPU is assumed, which keeps no table of
    weights. What a communication library and the device's own context take is not counted.
    """
    conditions = shapes.conditions
    train = conditions.train
    num_parts = train.num_parts(num_ranks)
    num_blocks = train.num_blocks(num_ranks)
    num_rows = num_blocks * conditions.num_targets
    sharding = conditions.parallel.sharding(num_ranks)
    features, _ = shapes.features
    # weights as they are gathered; fake tensors of a GPU need one, a CPU's have the same shapes
    with FakeTensorMode(), local_torch_dtype(machine.dtype if sharding else torch.float32):
        is_labelled = conditions.task.labelled is not None
        kind: type[Wrapper] = Classifier if is_labelled else LanguageModel
        model = kind(shapes.student_on(_CPU), machine.dtype).train()
        if machine.device.type == "cuda" and model.model._supports_sdpa:
            model.model.set_attn_implementation("sdpa")
        ids_BL = torch.zeros(num_blocks, conditions.data.block_length, dtype=torch.long)
        rows_N = torch.zeros(num_rows, dtype=torch.long)
        # of texts the longest
        inputs: tuple[Any, ...] = ({"input_ids": ids_BL},) if is_labelled else (ids_BL, rows_N)
        is_checkpointing = sharding is not None and sharding.activation_checkpointing
        kept, again = activation_bytes(model, inputs, is_checkpointing, features)
        gathered = gathered_bytes(model, machine.dtype) if sharding else 0
    teachers = shapes.models_beside.values()
    if sharding and sharding.shard_teacher:  # one model computes at a time
        theirs = [
            gathered_bytes(LanguageModel(teacher, machine.dtype), machine.dtype)
            for teacher in teachers
            if is_known(teacher.config)  # the others are refused
        ]
        gathered = max([gathered, *theirs])
    learning = sum(
        _learning_bytes(name, each, machine, num_blocks, shapes)
        for name, each in shapes.teacher_models.items()
        if shapes.teachers[name].learns
    )
    width, vocab_size = shapes.student_config.hidden_size, conditions.num_outputs
    is_mixed = len(shapes.teachers_beside) > 1  # into one table, in fp32 as a virtual teacher's
    beside = shapes.teachers_beside.values()
    num_others = sum(not each.is_student for each in beside) - len(teachers)
    widths = [
        m.config.hidden_size if is_known(m.config) and m.config.vocab_size == vocab_size else None
        for m in teachers
    ]
    logits = logit_bytes(
        num_rows,
        vocab_size,
        machine,
        [] if is_mixed else widths,
        num_virtual=1 if is_mixed else num_others,
        chunk_bytes=(FUSED_BYTES if train.compile else CHUNK_BYTES)[machine.device.type],
    )
    # centroids, as they are seen through the head, and their part of its gradient
    logits += shapes.num_shared * (vocab_size + 2 * width) * _FP32
    if machine.dtype != torch.float32:  # while there are tiles
        logits += vocab_size * width * machine.dtype.itemsize
    own = 0
    if shapes.mixture and shapes.mixture.chooses:  # of a policy, beside the mixture
        own = num_rows * vocab_size * _FP32 + shapes.mixture.own_bytes(num_rows, vocab_size)
    # when a layer is computed again the logits are gone
    activations = kept + max(0, again - logits) + learning + shapes.compared_bytes(num_blocks)
    of_texts = over_chunks(shapes.objectives).values() if shapes.teachers else ()  # all logits
    logits += num_rows * vocab_size * _FP32 * sum(each.num_tables for each in of_texts)
    # the gradients of states and head are there from the losses on
    num_trained_rows = 0 if shapes.tuning.freezes else vocab_size
    logits += (num_rows + num_trained_rows) * width * _FP32
    return replace(
        state(shapes, machine, num_ranks),
        gathered=gathered,
        activations=activations,
        # teachers answer before there are activations
        logits=max(logits, own, answer_bytes(shapes, machine, num_blocks) - activations),
        # DDP's buckets are the gradients, and stay
        gradients_stay=num_parts > 1 or (num_ranks > 1 and not sharding),
    )


def state(shapes: Shapes, machine: Machine, num_ranks: int = 1) -> Memory:
    """Return weights, gradients and optimizer of one rank: what a run takes at the least.

    Of sharded models the gradients of a step's micro-batches are summed whole, and shared out
    after the last one.
    """
    conditions = shapes.conditions
    are_summed = conditions.train.num_parts(num_ranks) > 1
    student = LanguageModel(shapes.student_model, torch.float32)
    fsdp = conditions.parallel.sharding(num_ranks)
    num_shards = num_ranks if fsdp else 1
    share = num_parameters(student) * _FP32 // num_shards
    whole = num_trained(student) * _FP32
    gradients = whole if are_summed else whole // num_shards
    theirs = sum(map(num_parameters, shapes.models_beside.values())) * _FP32
    theirs_shared = theirs // num_shards if fsdp and fsdp.shard_teacher else None
    # AdamW keeps two moments of each weight, Muon one, in fp32
    groups = [g for part in Optimizer(student, conditions.optim).parts for g in part.param_groups]
    moments = sum(p.numel() * (2 if "betas" in g else 1) for g in groups for p in g["params"])
    optimizer = moments * _FP32 // num_shards
    if fsdp is None or not fsdp.cpu_offload or machine.device.type == "cpu":
        theirs = theirs if theirs_shared is None else theirs_shared
        return Memory(share + theirs, gradients, optimizer)
    return Memory(
        weights=theirs if theirs_shared is None else 0,
        gradients=whole if are_summed else 0,
        optimizer=0,
        offloaded=share + whole // num_shards + optimizer + (theirs_shared or 0),
    )


def activation_bytes(
    model: Wrapper,
    inputs: Sequence[Any],
    checkpointing: bool = False,
    features: FeatureSpec = NO_FEATURES,
) -> tuple[int, int]:
    """What autograd keeps of a forward pass, and what is there while it computes a layer again.

    The weights themselves are left out; copies of them in bf16 are kept as activations are.
    checkpointing: of each layer only what it reads is kept, and one at a time computed again; then
    there are the gradient of what it returns and, on their way to their ranks, those of the layer
    after it. inputs: what the model is called with. features: what objectives look at inside; what
    they make of it is not counted here.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int | None, dict[int, int]] = defaultdict(dict)
    seen: set[int] = set()
    inside: int | None = None

    def enter(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal inside
        inside = id(layer)
        read_BLD.append(arguments[0])

    def leave(*_: object) -> None:
        nonlocal inside
        inside = None

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in seen:
            seen.add(storage._cdata)
            kept[inside][storage._cdata] = storage.nbytes()
        return tensor

    read_BLD: list[Tensor] = []
    hooks = [
        hook
        for layer in layers_of(model.model)
        for hook in (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave))
    ]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        want = Want(False, features, loss=lambda states_ND, head: states_ND)
        states_ND = model(*inputs, want).loss
    assert states_ND.requires_grad
    for hook in hooks:
        hook.remove()
    by_place = {place: sum(sizes.values()) for place, sizes in kept.items()}
    if not checkpointing:
        return sum(by_place.values()), 0
    outside = by_place.pop(None, 0)
    on_their_way = max(num_parameters(layer) for layer in layers_of(model.model)) * _FP32
    again = max(by_place.values()) + read_BLD[-1].nbytes + on_their_way
    return outside + sum(tensor.nbytes for tensor in read_BLD), again


def _learning_bytes(
    name: str, teacher: PreTrainedModel, machine: Machine, num_blocks: int, shapes: Shapes
) -> int:
    """Return what a teacher's modules and their learning take in a micro-batch.

    The modules themselves, their gradients and moments; what their backward pass needs of the
    teacher's forward pass; its states and their gradient.
    """
    of, options = shapes.conditions, shapes.teachers[name]
    num_rows, windows = num_blocks * of.num_targets, shapes.windows.get(name)
    with FakeTensorMode(), local_torch_dtype(torch.float32):
        made = outline(teacher.config, of.task.head, _CPU)
        model = (windows.around if windows else LanguageModel)(made, machine.dtype)
        signal = options.signal(model, of.data.vocab_size)
        assert isinstance(signal, OnlineSignal)
        modules = 4 * sum(map(num_parameters, signal.parts.values())) * _FP32
        kept = 0
        if options.shown:
            ids_BL = torch.zeros(num_blocks, of.data.block_length, dtype=torch.long)
            with signal.changed():
                rows_N = torch.zeros(num_rows, dtype=torch.long)
                kept, _ = activation_bytes(model, (ids_BL, rows_N), features=options.shown)
    return modules + kept + 3 * num_rows * teacher.config.hidden_size * _FP32


def gathered_bytes(model: Wrapper, dtype: torch.dtype) -> int:
    """What FSDP has in one piece: all that is outside the layers, a layer, and the next one."""
    of_layers = [num_parameters(layer) for layer in layers_of(model.model)]
    outside = num_parameters(model) - sum(of_layers)
    return (outside + 2 * max(of_layers)) * dtype.itemsize


def logit_bytes(
    num_rows: int,
    vocab_size: int,
    machine: Machine,
    widths: Sequence[int | None],
    num_virtual: int,
    chunk_bytes: int,
) -> int:
    """Return the bytes of a tile of logits (C, V), of teachers' answers, and of working rows.

    widths: of the teachers' states, from which tiles are made; None: its logits are there whole, as
    those of the virtual ones are, in fp32. The losses work in fp32 on a chunk of rows: one table
    per model, two where its logits are bf16, and one for what compares them.
    """
    itemsize, num_whole = machine.dtype.itemsize, widths.count(None)
    at_once = max(1, TILE_BYTES[machine.device.type] // (itemsize * vocab_size))
    tile = min(num_rows, at_once) * vocab_size
    known = [width for width in widths if width is not None]
    tables = (1 + len(known)) * tile * itemsize
    whole = num_rows * vocab_size * (num_whole * itemsize + num_virtual * _FP32)
    rounded = itemsize < _FP32
    states = sum(known) * (num_rows + vocab_size * rounded) * itemsize
    working = (1 + rounded) * (1 + len(widths)) + num_virtual + (len(widths) + num_virtual > 0)
    return tables + whole + states + working * min(chunk_bytes, tile * _FP32)


def answer_bytes(shapes: Shapes, machine: Machine, num_blocks: int) -> int:
    """Return what teachers hold while they answer, if that is more than the answer.

    A mixture has all of its members' tables (N, V) in fp32, and one of them twice; a policy looks
    at what their entropies are sums of. A model with
    other rows than the student's has its logits, and in fp32 what its probabilities are summed of.
    One that reads windows has them all at once: `Windows.layer_bytes`.
    """
    each = (num_blocks, shapes.conditions.data.block_length, machine.dtype.itemsize)
    beside = {name: shapes.windows.get(name) for name in shapes.models_beside}
    windows = [of.layer_bytes(shapes.teacher_models[n], *each) for n, of in beside.items() if of]
    return max(
        [_table_bytes(shapes, machine, num_blocks * shapes.conditions.num_targets), *windows]
    )


def _table_bytes(shapes: Shapes, machine: Machine, num_rows: int) -> int:
    vocab_size = shapes.conditions.num_outputs
    if len(shapes.teachers_beside) > 1:
        more = 3 if shapes.mixture and shapes.mixture.chooses else 1  # entropies
        return (len(shapes.teachers_beside) + more) * num_rows * vocab_size * _FP32
    itemsize = machine.dtype.itemsize
    tables = itemsize + _FP32 * (1 + (itemsize < _FP32))
    if shapes.conditions.task.labelled:  # their answer is as wide as the student's
        return 0
    sizes = [teacher.config.vocab_size for teacher in shapes.models_beside.values()]
    return sum(num_rows * size * tables for size in sizes if size != vocab_size)


def traffic(
    sharding: Fsdp | None,
    num_parameters: int,
    dtype: torch.dtype,
    num_parts: int,
    num_teacher_parameters: int = 0,
    num_trained: int | None = None,
) -> dict[str, int]:
    """Return the bytes of the tensors that each collective of a step puts together, on any rank.

    DDP sums gradients once for everybody, in fp32. FSDP gathers the weights in ``dtype`` for the
    forward pass of each of ``num_parts`` micro-batches, and again for the backward pass, and sums
    gradients once and shares them out, in fp32. A sharded teacher is gathered for every forward
    pass too. num_trained: of the parameters, those with a gradient; None: all.
    """
    gradients = (num_parameters if num_trained is None else num_trained) * _FP32
    if sharding is None:
        return {"all_reduce": gradients}
    gathered = 2 * num_parameters + sharding.shard_teacher * num_teacher_parameters
    return {"all_gather": num_parts * gathered * dtype.itemsize, "reduce_scatter": gradients}


def sent(traffic: Mapping[str, int], num_ranks: int) -> float:
    """Return the bytes that each rank sends, and receives, when the ranks form a ring.

    A ring passes a tensor around in ``num_ranks`` pieces, each to ``num_ranks - 1`` others: once to
    gather or to scatter, twice to reduce for everybody (arXiv 1802.05799).
    """
    around = sum(traffic.values()) + traffic.get("all_reduce", 0)
    return around * (num_ranks - 1) / num_ranks
