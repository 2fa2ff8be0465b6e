"""What a rank is said to hold against what torch's own trackers count."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE
from dwt_cli.config.run import Run
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.chunks import Alm, ChunkObjective, Chunks, Uld
from dwt_cli.distill.teacher.options import VirtualTeacher
from dwt_cli.distill.teacher.several import SeveralTeachers
from dwt_cli.distill.teacher.signal import VirtualSignal
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.memory import memory, state
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.tasks.task import Batch
from dwt_cli.training import parallel
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import Fsdp
from dwt_cli.training.protocols import Moment
from tests.conftest import outlined

CPU = torch.device("cpu")
GPU = Machine(torch.device("cuda"), torch.bfloat16)
NUM_RANKS, NUM_BLOCKS, NUM_ROWS = 8, 16, 16 * 9  # of a micro-batch of blocks of 64
SIZES = ["scale.width=64", "scale.num_heads=2", "scale.mlp_width=128", "scale.vocab_size=1000",
         "student.num_layers=3", "teacher=none"]  # fmt: skip

both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def sized(composed: Callable[..., Run], num_ranks: int, num_parts: int, *more: str) -> Shapes:
    """A run whose every rank takes ``num_parts`` micro-batches of NUM_BLOCKS."""
    batch = f"train.batch_size={NUM_BLOCKS * num_ranks * num_parts}"
    return recipe_of(composed(*SIZES, batch, f"train.micro_batch_size={NUM_BLOCKS}", *more)).shapes


def a_step(
    track: Callable[[], MemTracker],
    model: nn.Module,
    optimizer: Optimizer,
    num_parts: int,
    distillation: Distillation | None = None,
) -> int:
    """The peak that a tracker sees of the second step, when the moments are there.

    In the first one it would also count the whole tensors by which shapes of shards are worked out.
    """
    ids_BL = torch.zeros(NUM_BLOCKS, 64, dtype=torch.long)
    rows_N = 64 * torch.arange(NUM_BLOCKS).repeat_interleave(NUM_ROWS // NUM_BLOCKS)
    batch = Batch(ids_BL, rows_N, torch.zeros_like(rows_N), torch.zeros(NUM_BLOCKS, 3))
    loss = DistillationLoss(distillation)

    def step(after_part: Callable[[], None]) -> None:
        for part in range(num_parts):
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(part == num_parts - 1)
            loss(model, batch, Moment(0.5)).total.backward()
            after_part()
        optimizer.step()
        optimizer.zero_grad()

    step(lambda: None)
    with (tracker := track()):
        step(tracker.reset_mod_stats)
    return int(tracker.get_tracker_snapshot("peak")[CPU]["Total"])


def of_all(model: nn.Module, optimizer: Optimizer) -> MemTracker:
    tracker = MemTracker()
    tracker.track_external(model, *optimizer.parts)
    return tracker


# every two values of two settings meet in one of these; all mixtures are slow
PAIRS = [
    ("adamw", "bert", torch.float32, 2),
    ("adamw", "modernbert", torch.bfloat16, 1),
    ("muon", "bert", torch.bfloat16, 2),
    ("muon", "modernbert", torch.float32, 1),
    ("adamw", "bert", torch.bfloat16, 1),
    ("muon", "modernbert", torch.bfloat16, 2),
]
MIXTURES = itertools.product(
    ["adamw", "muon"], ["bert", "modernbert"], [torch.float32, torch.bfloat16], [1, 2]
)


@pytest.mark.parametrize(
    ("optim", "family", "dtype", "num_parts"),
    [pytest.param(*each, marks=[] if each in PAIRS else pytest.mark.slow) for each in MIXTURES],
)
def test_alone(
    composed: Callable[..., Run], optim: str, family: str, dtype: torch.dtype, num_parts: int
) -> None:
    shapes = sized(composed, 1, num_parts, f"scale.family={family}", f"optim={optim}")
    account = memory(shapes, Machine(CPU, dtype))
    with FakeTensorMode():
        model = LanguageModel(shapes.student_on(CPU), dtype).train()
        optimizer = Optimizer(model, shapes.conditions.optim)
        found = a_step(lambda: of_all(model, optimizer), model, optimizer, num_parts)
    assert account.total == pytest.approx(found, rel=0.01), account


@both_types
def test_with_a_virtual_teacher(composed: Callable[..., Run], dtype: torch.dtype) -> None:
    """It has no weights, and answers in fp32 whatever the student computes in."""
    words = ["scale.family=bert", "optim=adamw", "scale.vocab_size=4000", "teacher=virtual"]
    shapes = sized(composed, 1, 1, *words)
    account = memory(shapes, Machine(CPU, dtype))
    alone = memory(replace(shapes, teachers={}), Machine(CPU, dtype))
    signal = VirtualSignal(0.9, shapes.conditions.data.vocab_size)
    distillation = Distillation(signal, Constant(hard=1.0, soft=1.0), shapes.objectives)
    with FakeTensorMode():
        model = LanguageModel(shapes.student_on(CPU), dtype).train()
        optimizer = Optimizer(model, shapes.conditions.optim)
        found = a_step(lambda: of_all(model, optimizer), model, optimizer, 1, distillation)
    assert account.total == pytest.approx(found, rel=0.01), account
    assert account.weights == alone.weights and alone.total < 0.9 * found


def test_with_a_teacher_that_learns(composed: Callable[..., Run]) -> None:
    """What its backward pass needs is there until the student's is done: of each layer as much."""
    found = {}
    for kind, depth in (("none", 2), ("head", 2), ("lora", 2), ("lora", 4), ("lora", 6)):
        words = [f"teacher.online={kind}", f"teacher.num_layers={depth}", "teacher.rank=1"]
        shapes = sized(composed, 1, 1, "scale.family=bert", "teacher=small", *words)
        found[kind, depth] = memory(shapes, Machine(CPU, torch.float32)).activations
    states = NUM_BLOCKS * 64 * 64 * 4  # of all positions, fp32
    of_head = found["head", 2] - found["none", 2]
    modules = 4 * 2 * 64 * 4  # two vectors, their gradients and moments
    assert of_head == 3 * NUM_ROWS * 64 * 4 + modules
    of_layers = found["lora", 4] - found["lora", 2]
    assert of_layers == pytest.approx(found["lora", 6] - found["lora", 4], rel=0.01)
    assert 2 * 8 * states < of_layers < 2 * 24 * states
    assert found["lora", 2] - found["head", 2] > of_layers / 2


@pytest.mark.parametrize("num_members", [2, 9])
def test_with_a_mixture(composed: Callable[..., Run], num_members: int) -> None:
    """Few members' tables are less than activations and losses later, many are more."""
    words = ["scale.family=bert", "optim=adamw", "scale.vocab_size=4000", "teacher=virtual"]
    shapes = sized(composed, 1, 1, *words)
    members = [VirtualTeacher(0.9)] * num_members
    shapes = replace(shapes, teachers={str(n): each for n, each in enumerate(members)})
    signal = SeveralTeachers([], members).combine(
        [each.signal(None, 4000) for each in members], ALONE
    )
    distillation = Distillation(signal, Constant(hard=1.0, soft=1.0), shapes.objectives)
    account = memory(shapes, Machine(CPU, torch.float32))
    with FakeTensorMode():
        model = LanguageModel(shapes.student_on(CPU), torch.float32).train()
        optimizer = Optimizer(model, shapes.conditions.optim)
        found = a_step(lambda: of_all(model, optimizer), model, optimizer, 1, distillation)
    assert account.total == pytest.approx(found, rel=0.01), account


def test_with_a_teacher_of_more_rows(composed: Callable[..., Run]) -> None:
    """In bf16 its logits are there, a copy in fp32, and that copy's exponentials."""
    words = [*SIZES, "task=clm", "scale.vocab_size=50000", "teacher=small"]
    words += ["teacher.vocab_size=50048"]
    few, many = (
        memory(recipe_of(composed(*words, f"train.batch_size={n}")).shapes, GPU)
        for n in (512, 1024)
    )
    passing = many.activations + many.logits - few.activations - few.logits
    assert passing == 512 * 63 * 50_048 * (2 + 4 + 4)


def test_of_a_decoder_s_rows_there_are_states_alone(composed: Callable[..., Run]) -> None:
    """Its logits come in tiles, of which one is there: more rows take no more of them."""
    words = [*SIZES, "task=clm", "scale.vocab_size=50000", "teacher=small", "teacher.width=32"]
    few, many = (
        memory(recipe_of(composed(*words, f"train.batch_size={n}")).shapes, GPU).logits
        for n in (512, 1024)
    )
    assert many - few == 512 * 63 * (64 * 4 + 32 * 2), "gradients in fp32, the teacher's in bf16"
    compiled = [*words, "train.batch_size=1024", "train.compile=true"]
    for logits in (many, memory(recipe_of(composed(*compiled)).shapes, GPU).logits):
        assert logits < 1024 * 63 * 50_000 * 4


@pytest.fixture
def replicas() -> Iterator[None]:
    """A group of this process alone, in which DDP does what it does in any."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def shards() -> Iterator[None]:
    """This process is rank 0 of ranks that are not there: what is sent goes nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=NUM_RANKS)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.usefixtures("replicas")
def test_replicated(composed: Callable[..., Run], num_parts: int) -> None:
    """DDP's buckets are the gradients. Its reducer is C++: the tensors are real, and tiny."""
    shapes = sized(composed, NUM_RANKS, num_parts, "scale.family=bert", "optim=adamw")
    account = memory(shapes, Machine(CPU, torch.float32), NUM_RANKS)
    model = LanguageModel(make_model(shapes.student, 0, "student"), torch.float32).train()
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = Optimizer(model, shapes.conditions.optim)
    found = a_step(lambda: of_all(replica, optimizer), replica, optimizer, num_parts)
    assert account.total == pytest.approx(found, rel=0.01), account


@pytest.mark.parametrize(
    ("family", "dtype", "num_parts", "checkpointing"),
    [
        ("bert", torch.float32, 1, False),
        ("bert", torch.bfloat16, 2, True),
        pytest.param("bert", torch.bfloat16, 2, False, marks=pytest.mark.slow),
        pytest.param("bert", torch.bfloat16, 1, True, marks=pytest.mark.slow),
        pytest.param("modernbert", torch.bfloat16, 1, False, marks=pytest.mark.slow),
        pytest.param("modernbert", torch.float32, 2, True, marks=pytest.mark.slow),
        pytest.param("bert", torch.float32, 1, True, marks=pytest.mark.slow),
        pytest.param("modernbert", torch.bfloat16, 1, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("shards")
def test_sharded(
    composed: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    dtype: torch.dtype,
    num_parts: int,
    checkpointing: bool,
) -> None:
    words = [f"scale.family={family}", "optim=adamw", "parallel=fsdp"]
    words += [f"parallel.activation_checkpointing={checkpointing}"]
    shapes = sized(composed, NUM_RANKS, num_parts, *words)
    account = memory(shapes, Machine(CPU, dtype), NUM_RANKS)
    mesh = init_device_mesh("cpu", (NUM_RANKS,))  # it counts on real numbers
    monkeypatch.setattr(parallel, "init_device_mesh", lambda *_: mesh)
    options = shapes.conditions.parallel
    assert isinstance(options, Fsdp)
    with FakeTensorMode():
        model = LanguageModel(shapes.student_on(CPU), dtype).train()
        parallel.shard(model, nn.ModuleDict(), options, CPU, dtype)
        optimizer = Optimizer(model, shapes.conditions.optim)
        found = a_step(lambda: FSDPMemTracker(model, *optimizer.parts), model, optimizer, num_parts)
    assert account.total == pytest.approx(found, rel=0.1), account


@pytest.mark.slow
def test_a_teacher_is_whole_on_every_rank_or_shared(composed: Callable[..., Run]) -> None:
    words = ["launch=torchrun", "launch.gpus=8", "parallel=fsdp", "scale=paper"]
    shared = "parallel.shard_teacher=true"
    alone, taught, sharing = (
        state(recipe_of(composed(*more, *words)).shapes, GPU, 8)
        for more in (["teacher=none"], ["teacher=small"], ["teacher=small", shared])
    )
    teacher = 4 * sum(p.numel() for p in outlined(composed("scale=paper").teacher).parameters())
    assert taught.weights - alone.weights == teacher
    assert sharing.weights - alone.weights == pytest.approx(teacher / 8, abs=8)
    whole = state(recipe_of(composed("teacher=none", "scale=paper")).shapes, GPU)
    assert whole.total == pytest.approx(8 * alone.total, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [1, 2])
def test_what_is_offloaded_is_in_the_machine(composed: Callable[..., Run], num_parts: int) -> None:
    """All of it, but for the sum of gradients over micro-batches."""
    words = ["teacher=small", "launch=torchrun", "launch.gpus=8", "parallel=fsdp"]
    kept = sized(composed, 8, num_parts, "parallel.shard_teacher=true", *words)
    offloading = Fsdp(shard_teacher=True, cpu_offload=True)
    moved = replace(kept, conditions=replace(kept.conditions, parallel=offloading))
    alone = state(kept, GPU)
    assert state(moved, GPU, 8).total == (0 if num_parts == 1 else alone.gradients)
    assert state(moved, GPU, 8).offloaded == pytest.approx(alone.total / 8, abs=8)
    assert memory(moved, GPU, 8).total < memory(kept, GPU, 8).total
    on_cpu = Machine(CPU, torch.float32)
    assert state(moved, on_cpu, 8) == state(kept, on_cpu, 8)


def test_a_micro_batch_of_the_decoders_fits_a_gpu_of_24_gb(composed: Callable[..., Run]) -> None:
    run = composed("scale=decoder")
    assert (run.train.num_parts(1), run.train.num_parts(64)) == (32, 1)
    assert 12e9 < memory(recipe_of(run).shapes, GPU).total < 20e9


@pytest.mark.parametrize("objective", [Alm(), Uld()])
def test_the_students_logits_where_likelihoods_are_compared(objective: ChunkObjective) -> None:
    """At their peak, as tables (N, V) in fp32; all rows are at places."""
    num_rows, size = 512, 4000
    with FakeTensorMode():
        states_ND = torch.randn(num_rows, 16, requires_grad=True)
        weight_VD = torch.randn(size, 16, requires_grad=True)
        rows_N, labels_N = torch.arange(num_rows), torch.zeros(num_rows, dtype=torch.long)
        with (tracker := MemTracker()):
            at_places = torch.rand(num_rows * objective.at_places, size)
            theirs = Chunks(rows_N, torch.zeros(num_rows), rows_N, at_places)
            objective.compare(states_ND @ weight_VD.T, labels_N, theirs).backward()
        peak = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    assert objective.num_tables == pytest.approx(peak / (num_rows * size * 4), rel=0.15)
