"""The typed options of a run: one dataclass tree. `dwt_cli.problems` checks it as a whole.

Hydra composes against these classes (each group file extends one of them), and `typed` turns the
composed config into plain objects, once. Nothing below the front door sees a DictConfig. This
module imports no torch: TAB completion and ``--help`` load it.

A field marked `bookkeeping` cannot change a run's result and is left out of its identity; one
marked `added` is left out while it has its default. A class that is renamed keeps the name that
identities know as ``tag: ClassVar[str]``, which its subclasses do not inherit.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import II, MISSING, DictConfig, OmegaConf

from dwt_cli.alpha import SCHEDULES, Schedule
from dwt_cli.errors import UserError
from dwt_cli.settings import groups


def bookkeeping(default: Any) -> Any:
    """A field that says where, how fast or under what label; never what comes out."""
    return field(default=default, metadata={"identity": False})


_UNLESS_DEFAULT = "unless default"


def added(default: Any) -> Any:
    """A field that came later: at its default, a plain value, every identity stays what it was."""
    return field(default=default, metadata={"identity": _UNLESS_DEFAULT})


# ---------------------------------------------------------------------------------------- data


@dataclass
class Data:
    """Text, and how it becomes packed blocks of tokens."""

    block_length: int = II("scale.block_length")
    vocab_size: int = II("scale.vocab_size")
    # a folder with a tokenizer, or a name on the hub; null trains one, or takes the checkpoint's
    tokenizer: str | None = None
    heldout_fraction: float = 0.02
    max_heldout_blocks: int = 4096
    max_gb: float = 50.0


@dataclass
class Docs(Data):
    """Docstrings of the standard library and of installed packages; empty: the default ones."""

    packages: list[str] = field(default_factory=list)


@dataclass
class Files(Data):
    """Files of one's own: a glob or a folder of .txt, .jsonl, .parquet, .gz, .zst."""

    path: str = bookkeeping(MISSING)  # the files' sums count, not where they lie
    text_column: str = "text"


@dataclass
class HubPart:
    """One data set of the Hugging Face hub (or a local folder that ``datasets`` can open)."""

    dataset: str = MISSING
    config: str | None = None
    split: str = "train"
    text_column: str = "text"


@dataclass
class Hub(Data):
    """Data sets of the hub, one after the other, every n-th sentence of them, up to a number."""

    parts: list[HubPart] = field(default_factory=list)
    every_nth_sentence: int = 1
    max_sentences: int | None = None


# --------------------------------------------------------------------- task, models and losses


@dataclass
class Task:
    """Masked language modelling: BERT's 80/10/10 on a fixed number of positions per block."""

    mask_ratio: float = 0.15
    keep_ratio: float = 0.1
    random_ratio: float = 0.1


class Family(Enum):
    """The shape of a model that is made here."""

    bert = "bert"
    modernbert = "modernbert"


@dataclass
class Architecture:
    """The size of a masked language model that is made here."""

    num_layers: int = MISSING
    family: Family = II("scale.family")
    width: int = II("scale.width")
    num_heads: int = II("scale.num_heads")
    mlp_width: int = II("scale.mlp_width")
    vocab_size: int = II("scale.vocab_size")
    max_length: int = II("scale.block_length")
    dropout: float = 0.0


@dataclass
class Checkpoint:
    """A masked language model in the hub's format, from a folder or by name."""

    path: str = bookkeeping(MISSING)  # a folder's sums count, not where it lies
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass
class Student:
    """The model that is wanted."""


@dataclass
class MadeStudent(Architecture, Student):
    """A student that is made here, with fresh weights or those that remap gives it."""


@dataclass
class CheckpointStudent(Checkpoint, Student):
    """A student that exists and is trained on, with or without a teacher."""


@dataclass
class Teacher:
    """Where the soft targets come from. By itself: nowhere, the student stands alone."""


@dataclass
class ModelTeacher(Teacher):
    """A model beside the student.

    temperature: divides this teacher's logits, and nothing else, before the objective's own.
    """

    temperature: float = 1.0


BUDGETS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""The shares of its own pre-training at which a teacher is kept."""


@dataclass
class MadeTeacher(Architecture, ModelTeacher):
    """A teacher that is pre-trained here, once, by the same loop, and kept in the cache.

    It is as wide as the student, unless the scale has other sizes for teachers.

    budget: the share of that training after which it teaches, one of `BUDGETS`: the model on its
    way, its learning rate not yet decayed; 0 is untrained. data: text of its own, in the tokens of
    the student's; null: the student's text. Whether the student's held-out text occurs in it is not
    looked at.
    """

    width: int = II("scale.teacher_width")
    num_heads: int = II("scale.teacher_num_heads")
    mlp_width: int = II("scale.teacher_mlp_width")
    seed: int = 0
    max_steps: int = II("scale.teacher_steps")
    budget: float = 1.0
    data: Data | None = None


@dataclass
class CheckpointTeacher(Checkpoint, ModelTeacher):
    """A teacher that exists."""


@dataclass
class VirtualTeacher(Teacher):
    """No model: ``confidence`` on the true class, the rest spread evenly over all others."""

    confidence: float = MISSING


class Weighting(Enum):
    """What the weights of several teachers follow; see `dwt_cli.teacher.several`."""

    fixed = "fixed"
    batch = "batch"
    token = "token"


@dataclass
class SeveralTeachers(Teacher):
    """A mixture of teachers: choices of this group by name, or checkpoints by path or hub name.

    weights: in proportion, one per member; empty: equal. temperatures: one per member, on top of
    the member's own; empty: 1. teachers: what the members' names stand for, filled in by `typed`.
    """

    members: list[str] = bookkeeping(MISSING)
    weights: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    weighting: Weighting = Weighting.fixed
    teachers: list[Teacher] = field(default_factory=list)


@dataclass
class Remap:
    """How the student starts. By itself: from its random initialisation."""


@dataclass
class FromTeacher(Remap):
    """From the teacher's weights, by a rule of `dwt_cli.remap.depth` and one of `.width`."""

    depth: str = MISSING
    width: str | None = None  # null: the teacher has the student's sizes
    head: bool = True  # false: only the embeddings and the layers


@dataclass
class Ligo(FromTeacher):
    """By maps that are learned on the corpus, and begin as the rules' (arXiv 2303.00980)."""

    steps: int = 100
    lr: float = 3e-3


@dataclass
class Objective:
    """One thing that is compared with the teacher. alpha_soft scales the weighted sum of all."""

    weight: float = 1.0


@dataclass
class Distributions(Objective):
    """Teacher and student over the vocabulary, on the target rows, at a temperature on both sides.

    temperature_end: where it is at the end of the run, in a straight line; null keeps it.
    tau_squared: multiply by its square (arXiv 1503.02531); the paper does not.
    """

    temperature: float = 1.0
    temperature_end: float | None = None
    tau_squared: bool = False

    def temperature_at(self, progress: float) -> float:
        """The temperature after a share of the run, in [0, 1]."""
        end = self.temperature if self.temperature_end is None else self.temperature_end
        return self.temperature + (end - self.temperature) * progress

    @property
    def is_plain(self) -> bool:
        """Whether the temperature is 1 from the beginning to the end."""
        return self.temperature == 1 and self.temperature_end in (None, 1)


@dataclass
class ForwardKL(Distributions):
    """KL(teacher || student), eq. 2."""


@dataclass
class ReverseKL(Distributions):
    """KL(student || teacher)."""


@dataclass
class JensenShannon(Distributions):
    """beta KL(teacher || mixture) + (1 - beta) KL(student || mixture).

    beta: the teacher's share of the mixture.
    """

    beta: float = 0.5


@dataclass
class SquaredError(Distributions):
    """Mean squared difference of the logits."""


@dataclass
class TopK(Distributions):
    """Forward KL over k + 1 outcomes: the teacher's k likeliest tokens, and the rest as one."""

    k: int = 10


@dataclass
class MiniLM(Objective):
    """Attention and value relation of one layer on each side; layers count from 0, or from -1."""

    teacher_layer: int = -1
    student_layer: int = -1


@dataclass
class MiniLMv2(MiniLM):
    """q-q, k-k and v-v relations of one layer; null: as many relation heads as the student has."""

    num_relation_heads: int | None = None


class Distance(Enum):
    """cosine: one minus it. mse: mean squared difference."""

    cosine = "cosine"
    mse = "mse"


@dataclass
class Hidden(Objective):
    """Hidden states at [student layer, teacher layer] pairs, through a learned projection."""

    pairs: list[list[int]] = field(default_factory=lambda: [[-1, -1]])
    distance: Distance = Distance.cosine


@dataclass
class Revise:
    """What becomes of the teacher's distribution before it is compared: nothing."""


@dataclass
class LabelRevision(Revise):
    """b * teacher + (1 - b) * label, b = eta / (p_max - p_label + 1)."""

    eta: float = 0.9


@dataclass
class ConfidenceMix(Revise):
    """(1 - a) * teacher + a * the student's likeliest token; a rises to ``most`` within a share."""

    most: float = 0.5
    warmup: float = 0.1


@dataclass
class Select:
    """On which target rows the soft loss counts: all of them."""


@dataclass
class Gate(Select):
    """Where the teacher gives the label more probability than the student does."""


@dataclass
class Correct(Select):
    """Where the label is the teacher's likeliest token."""


@dataclass
class Confident(Select):
    """Where the teacher's likeliest token has at least a probability of ``threshold``."""

    threshold: float = 0.5


# ------------------------------------------------------------------------------------- training


class Falling(Enum):
    """How the learning rate falls to zero: in a straight line, or as half a cosine."""

    linear = "linear"
    cosine = "cosine"


@dataclass
class Optim:
    """AdamW: linear warm-up, a plateau, and a decay to zero, as shares of the run."""

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    warmup: float = 0.05
    decay: float = 0.95
    falling: Falling = Falling.linear
    clip_norm: float = 1.0


@dataclass
class Muon(Optim):
    """Muon on the hidden matrices, AdamW with the fields above on everything else."""

    hidden_lr: float = 0.02
    momentum: float = 0.95
    hidden_weight_decay: float = 0.0


class Precision(Enum):
    """auto: bf16 where the hardware multiplies it natively, else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class NonFinite(Enum):
    """What a loss or gradient that is no number leads to."""

    stop = "stop"
    skip = "skip"


@dataclass
class Train:
    """How long, in what portions, at what precision. The first limit that is met ends the run.

    compile: by torch.compile, which takes about a minute and pays off in longer runs.
    """

    max_steps: int | None = II("scale.max_steps")
    epochs: float | None = II("scale.epochs")
    max_minutes: float | None = None
    batch_size: int = II("scale.batch_size")
    micro_batch_size: int | None = bookkeeping(None)
    precision: Precision = Precision.auto
    compile: bool = bookkeeping(False)
    non_finite: NonFinite = NonFinite.stop
    checkpoint_every: int = bookkeeping(II("scale.checkpoint_every"))
    keep_checkpoints: int = bookkeeping(2)
    log_every: int = bookkeeping(II("scale.log_every"))

    def num_parts(self, num_ranks: int) -> int:
        """In how many portions each of so many ranks takes its share of a batch.

        Raises `UserError` for a batch that does not divide.
        """
        of_rank, rest = divmod(self.batch_size, num_ranks)
        if rest:
            raise UserError(
                f"train.batch_size={self.batch_size} does not divide among {num_ranks} ranks: "
                f"choose a multiple of {num_ranks}"
            )
        num_parts, rest = divmod(of_rank, self.micro_batch_size or of_rank)
        if rest:
            raise UserError(
                f"train.micro_batch_size={self.micro_batch_size} does not divide the {of_rank} "
                f"sequences of each of {num_ranks} ranks: choose a divisor, or null for all"
            )
        return num_parts


class Protocol(Enum):
    """How GLUE is fine-tuned; the figures are in `dwt_cli.evaluate.protocols`."""

    sane = "sane"
    bert = "bert"
    quick = "quick"


@dataclass
class Glue:
    """The GLUE benchmark, by fine-tuning. tasks: by name, as in [RTE,CoLA]; empty for all nine."""

    path: str | None = bookkeeping(None)  # a folder of TSV files; null: nyu-mll/glue of the hub
    tasks: list[str] = field(default_factory=list)
    protocol: Protocol = Protocol.sane
    num_seeds: int = 3
    max_length: int = 128


@dataclass
class Blimp:
    """Minimal pairs. path: the folder of BLiMP's .jsonl files. num_pairs: of each; null is all."""

    path: str | None = bookkeeping(None)
    num_pairs: int | None = None


@dataclass
class Probing:
    """What a linear classifier reads from the frozen encoder, on sentences of held-out text.

    num_sentences: at most, for bigram shift. num_words: at most, for word content, with
    num_per_word sentences each.
    """

    num_sentences: int = 4000
    num_words: int = 40
    num_per_word: int = 20
    seed: int = 0


@dataclass
class Eval:
    """The fixed masked held-out set, which a training looks at, and what is measured after it.

    measures: by name (`dwt_cli.evaluate.measures`). at: at which shares of the training. Neither
    is part of a run's identity: the same trained model can be measured again and otherwise.
    """

    every: int = II("scale.eval_every")
    num_blocks: int = 1024
    measures: list[str] = bookkeeping(MISSING)
    at: list[float] = field(default_factory=lambda: [1.0], metadata={"identity": False})
    glue: Glue = field(default_factory=Glue, metadata={"identity": False})
    blimp: Blimp = field(default_factory=Blimp, metadata={"identity": False})
    probing: Probing = field(default_factory=Probing, metadata={"identity": False})


# ---------------------------------------------------------------------------------- around a run


@dataclass
class Tracker:
    """No dashboard; metrics.jsonl and the figures are always written."""


@dataclass
class Wandb(Tracker):
    """Weights & Biases: online when a key is set, offline otherwise."""

    project: str = "dwt"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    log_model: bool = False


class Device(Enum):
    """auto: the first CUDA device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class Launch:
    """One process on this machine. num_threads: of each process; null shares the cores."""

    device: Device = Device.auto
    num_threads: int | None = None

    @property
    def num_ranks(self) -> int:
        """How many processes work on a run, on all machines together."""
        return 1


@dataclass
class Torchrun(Launch):
    """Several processes (ranks) on one or more machines (nodes), by torch's own launcher.

    gpus: ranks on each node, one for each GPU; with launch.device=cpu so many CPU processes.
    rdzv_endpoint: HOST:PORT at which the nodes meet, the same command on each; null: one node.
    max_restarts: how often all ranks begin again, from the last checkpoint, when one has died.
    max_wait_minutes: how long a rank waits for another, and a node for the others.
    """

    gpus: int = MISSING
    nodes: int = 1
    rdzv_endpoint: str | None = None
    max_restarts: int = 0
    max_wait_minutes: float = 60.0

    @property
    def num_ranks(self) -> int:
        return self.gpus * self.nodes


class Executor(Enum):
    """Who carries a job out: SLURM; or, to try it out here, local in the background and debug."""

    slurm = "slurm"
    local = "local"
    debug = "debug"


@dataclass
class Slurm(Torchrun):
    """The ranks of `Torchrun`, in a job of SLURM; its nodes meet by themselves.

    minutes: the job's time limit. max_timeouts: how often it is queued again when it has met it;
    after a preemption it always is. cpus, memory_gb: of each node; null: what the partition gives.
    folder: of the logs, below run.root. wait: until the job has ended; false leaves it alone.
    """

    partition: str | None = None
    account: str | None = None
    minutes: int = 1440
    max_timeouts: int = 3
    cpus: int | None = None
    memory_gb: float | None = None
    folder: str = "slurm"
    wait: bool = True
    executor: Executor = Executor.slurm


@dataclass
class Jobs:
    """How the runs of a multirun are carried out: one after the other, each a process of its own.

    fail_fast: begin no other one after one has failed.
    """

    fail_fast: bool = False


@dataclass
class Joblib(Jobs):
    """Several at a time on this machine; its devices are dealt out, its cores shared.

    num_parallel: how many; null: one for each CUDA device, or for each core.
    """

    num_parallel: int | None = None


@dataclass
class Submitit(Joblib):
    """Each of them a job of SLURM, as launch=slurm says; here one process waits for each.

    num_parallel: how many are handed over at a time; null: 100.
    """


@dataclass
class Parallel:
    """Every rank holds the whole model; gradients are summed while they are computed (DDP)."""


@dataclass
class Fsdp(Parallel):
    """Each rank keeps a share of weights, gradients and optimiser, layer by layer (FSDP2).

    activation_checkpointing: compute a layer's activations twice instead of keeping them.
    cpu_offload: keep the shares in the machine's own memory, where the optimiser works on them.
    shard_teacher: shard the teacher too; else each rank has the whole of it.
    """

    activation_checkpointing: bool = False
    cpu_offload: bool = False
    shard_teacher: bool = False


@dataclass
class Scale:
    """Absolute sizes and lengths; the other groups refer to them.

    num_layers: of student=large. teacher_num_layers: of teacher=small.
    """

    num_layers: int = 6
    family: Family = MISSING
    width: int = MISSING
    num_heads: int = MISSING
    mlp_width: int = MISSING
    vocab_size: int = MISSING
    teacher_num_layers: int = 4
    teacher_width: int = II("scale.width")
    teacher_num_heads: int = II("scale.num_heads")
    teacher_mlp_width: int = II("scale.mlp_width")
    block_length: int = MISSING
    batch_size: int = MISSING
    max_steps: int | None = MISSING
    epochs: float | None = None
    teacher_steps: int = MISSING
    eval_every: int = MISSING
    checkpoint_every: int = MISSING
    log_every: int = 1


@dataclass
class RunOptions:
    """Where things are kept, and what to do about a record that exists.

    fresh: set it aside and start anew. export: save the model of its newest checkpoint, and leave.
    schedule: draw the loss weights over time as they are set, and leave.
    plan: say what the run will take, and leave; for that, train_tokens: the length of the text,
    where it limits the run; peak_tflops: of the device; mfu: the share of it that is reached;
    device_gb: the memory of a GPU that is not here, null: the device that is.
    """

    root: str = "runs"
    cache: str | None = None
    fresh: bool = False
    export: bool = False
    schedule: bool = False
    plan: bool = False
    train_tokens: int | None = None
    peak_tflops: float | None = None
    mfu: float = 0.4
    device_gb: float | None = None

    @property
    def only_looks(self) -> bool:
        """Whether nothing is trained."""
        return self.export or self.schedule or self.plan


@dataclass
class Run:
    """Everything that one run is made of. ``choices``: the name picked in each config group."""

    data: Data = MISSING
    task: Task = MISSING
    teacher: Teacher = MISSING
    student: Student = MISSING
    alpha: Schedule = MISSING
    remap: Remap = MISSING
    objective: dict[str, Objective] = MISSING
    revise: Revise = MISSING
    select: Select = MISSING
    optim: Optim = MISSING
    train: Train = MISSING
    eval: Eval = MISSING
    tracker: Tracker = bookkeeping(MISSING)
    launch: Launch = bookkeeping(MISSING)
    parallel: Parallel = bookkeeping(MISSING)
    jobs: Jobs = bookkeeping(MISSING)
    scale: Scale = bookkeeping(MISSING)
    run: RunOptions = field(default_factory=RunOptions, metadata={"identity": False})
    seed: int = 0
    choices: dict[str, str] = field(default_factory=dict, metadata={"identity": False})
    overrides: list[str] = field(default_factory=list, metadata={"identity": False})


@dataclass
class Evaluation(Run):
    """What ``dwt-eval`` looks at: a model that exists. What makes a training is idle here."""

    model: str = MISSING
    revision: str | None = None


class Expect(Enum):
    """What a claim says of a loss: it is the lower one, or the higher one."""

    lower = "lower"
    higher = "higher"


@dataclass
class Claim:
    """What a study says beforehand: ``arm`` ends lower, or higher, than ``against``.

    length: at which; null: at each, a claim for every one. progress: after which share of the run.
    """

    claim: str = MISSING
    arm: str = MISSING
    against: str = MISSING
    expect: Expect = MISSING
    length: int | None = None
    progress: float = 1.0


@dataclass
class StudyOptions:
    """What a study asks, written down before it runs.

    arms: what each one sets, as words of a command. exploratory: those that no claim is about.
    smallest_effect: of interest, in nats of held-out loss.
    """

    question: str = MISSING
    baseline: str = "alone"
    smallest_effect: float = 0.02
    arms: dict[str, str] = MISSING
    exploratory: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


@dataclass
class Study(Run):
    """One run of a study: an arm at a length (optimizer steps, times ``stretch``) and a seed."""

    study: StudyOptions = field(default_factory=StudyOptions)
    arm: str = MISSING
    length: int = MISSING
    stretch: float = 1.0


SCHEMAS: dict[str, dict[str, type]] = {
    "data": {"docs": Docs, "files": Files, "hub": Hub},
    "task": {"mlm": Task},
    "teacher": {
        "none": Teacher,
        "made": MadeTeacher,
        "checkpoint": CheckpointTeacher,
        "virtual": VirtualTeacher,
        "several": SeveralTeachers,
    },
    "student": {"made": MadeStudent, "checkpoint": CheckpointStudent},
    "alpha": dict(SCHEDULES),
    "remap": {"random": Remap, "rules": FromTeacher, "ligo": Ligo},
    "objective": {
        "forward_kl": ForwardKL,
        "reverse_kl": ReverseKL,
        "jensen_shannon": JensenShannon,
        "mse": SquaredError,
        "top_k": TopK,
        "minilm": MiniLM,
        "minilmv2": MiniLMv2,
        "hidden": Hidden,
    },
    "revise": {"none": Revise, "label_revision": LabelRevision, "confidence_mix": ConfidenceMix},
    "select": {"all": Select, "gate": Gate, "correct": Correct, "confident": Confident},
    "optim": {"adamw": Optim, "muon": Muon},
    "train": {"default": Train},
    "eval": {"eval": Eval},
    "tracker": {"none": Tracker, "wandb": Wandb},
    "launch": {"local": Launch, "torchrun": Torchrun, "slurm": Slurm},
    "parallel": {"ddp": Parallel, "fsdp": Fsdp},
    "jobs": {"basic": Jobs, "joblib": Joblib, "submitit": Submitit},
    "scale": {"scale": Scale},
}

SEVERAL = ("objective",)
"""Groups in which several choices can be made at once, each with its settings under its name."""

GROUPS_AND_SETTINGS = [f.name for f in dataclasses.fields(Run) if f.default is MISSING] + [
    "run",
    "seed",
]
"""The first words of every setting of a run."""

STUDY_SETTINGS = [*GROUPS_AND_SETTINGS, "arm", "length", "stretch", "study"]
"""Those of a study's primary config."""

EVAL_SETTINGS = [
    "model", "revision", "eval", "data", "task", "scale", "train", "tracker", "launch", "run",
]  # fmt: skip
"""Those that an evaluation heeds."""


def is_list(key: str) -> bool:
    """Whether a setting of this name is a list, under some choice of its group."""
    group, name = key.split(".")[0], key.rpartition(".")[2]
    kinds = [
        str(f.type)
        for node in SCHEMAS.get(group, {}).values()
        for f in dataclasses.fields(node)
        if f.name == name
    ]
    return any(kind.startswith(("list", "tuple")) for kind in kinds)


def register(root: type[Run] = Run) -> None:
    """Make the classes known to Hydra: ``/schema/<group>: <name>`` in a group file's defaults.

    root: what a whole config is.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=root)
    for group, schemas in SCHEMAS.items():
        for name, node in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    OmegaConf.register_new_resolver("steps", _steps, replace=True)


def _steps(length: int, share: float) -> int:
    """``${steps:LENGTH,SHARE}`` in a settings file: a share of a length, at least one step."""
    return max(1, round(length * share))


def typed(composed: DictConfig, search: Sequence[str] = ()) -> Run:
    """The composed config as plain objects; interpolations and members are resolved here.

    search: overrides that say where else Hydra finds choices. Raises omegaconf's exceptions for a
    value that is missing or of the wrong type.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        setting = re.sub(r"\[(\d+)\]", r".\1", missing[0])
        raise UserError(f"{setting} has no value: give one, as in {setting}=...")
    run = OmegaConf.to_object(composed)
    if not isinstance(run, Run):
        raise UserError(
            "--config-name: this is no whole run; begin it with `defaults: [config, _self_]`"
        )
    if isinstance(run.teacher, SeveralTeachers):
        run.teacher.teachers = [_member(name, composed, search) for name in run.teacher.members]
    return run


def _member(name: str, composed: DictConfig, search: Sequence[str]) -> Teacher:
    """What a name in teacher.members stands for, at the sizes of the run that it teaches in."""
    if "/" in name:
        return CheckpointTeacher(path=name)
    try:
        choice = compose("config", [*search, f"teacher={name}"]).teacher
    except MissingConfigException as error:
        if Path(name).is_dir():
            return CheckpointTeacher(path=name)
        raise UserError(
            f"teacher.members: {name} is neither a choice of teacher nor a folder; choose one of "
            f"{', '.join(groups()['teacher'])}, or give a checkpoint's path or hub name"
        ) from error
    for key in sorted(OmegaConf.missing_keys(choice)):
        raise UserError(
            f"teacher.members: {name} has no {key}, and a member has no settings here; name a "
            "choice that is complete, or a checkpoint's path"
        )
    run = deepcopy(composed)
    run.teacher = choice
    return typed(run).teacher


def plain(options: Any) -> Any:
    """Dataclasses, enums and containers as JSON values."""
    if dataclasses.is_dataclass(options):
        return {f.name: plain(getattr(options, f.name)) for f in dataclasses.fields(options)}
    if isinstance(options, Mapping):
        return {str(key): plain(value) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [plain(value) for value in options]
    return options.name if isinstance(options, Enum) else options


def identity(options: Any) -> Any:
    """`plain`, with the class of each dataclass and without what cannot change a result."""
    if dataclasses.is_dataclass(options):
        kept = [f for f in dataclasses.fields(options) if _counts(f, getattr(options, f.name))]
        return {
            "class": vars(type(options)).get("tag", type(options).__name__),
            **{f.name: identity(getattr(options, f.name)) for f in kept},
        }
    if isinstance(options, Mapping):
        return {str(key): identity(value) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [identity(value) for value in options]
    return plain(options)


def _counts(f: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field with this value is part of an identity."""
    counts = f.metadata.get("identity", True)
    return bool(counts) and (counts != _UNLESS_DEFAULT or value != f.default)


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change whenever something that determines a result does."""
    text = json.dumps([identity(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def each_teacher(run: Run) -> Iterator[tuple[str, Teacher]]:
    """Every single teacher of a run, with the setting that its own settings begin with."""
    if isinstance(run.teacher, SeveralTeachers):
        for name, member in zip(run.teacher.members, run.teacher.teachers, strict=True):
            yield f"teacher.members.{name}", member
    elif type(run.teacher) is not Teacher:
        yield "teacher", run.teacher


def checkpoints(run: Run) -> Iterator[tuple[str, Checkpoint]]:
    """Every model of a run that exists already, with the setting that names it."""
    if isinstance(run.student, CheckpointStudent):
        yield "student.path", run.student
    for setting, teacher in each_teacher(run):
        if isinstance(teacher, CheckpointTeacher):
            yield "teacher.path" if setting == "teacher" else "teacher.members", teacher
