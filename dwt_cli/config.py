"""The typed options of a run: one dataclass tree, and every check across its fields.

Hydra composes against these classes (each group file extends one of them), and `typed` turns the
composed config into plain objects, once. Nothing below the front door sees a DictConfig. This
module imports no torch: TAB completion and ``--help`` load it.

A field marked `bookkeeping` cannot change a run's result and is left out of its identity.
"""

import dataclasses
import hashlib
import json
import math
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
    """Data sets of the hub, one after the other, every n-th sentence of them."""

    parts: list[HubPart] = field(default_factory=list)
    every_nth_sentence: int = 1


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

    budget: the share of that training after which it teaches, one of `BUDGETS`: the model on its
    way, its learning rate not yet decayed; 0 is untrained. data: text of its own, in the tokens of
    the student's; null: the student's text. Whether the student's held-out text occurs in it is not
    looked at.
    """

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


@dataclass
class Parallel:
    """Every rank holds the whole model; gradients are summed while they are computed (DDP)."""


@dataclass
class Fsdp(Parallel):
    """Each rank keeps a share of weights, gradients and optimiser, layer by layer (FSDP2).

    activation_checkpointing: compute a layer's activations twice instead of keeping them.
    """

    activation_checkpointing: bool = False


@dataclass
class Scale:
    """Absolute sizes and lengths; the other groups refer to them."""

    family: Family = MISSING
    width: int = MISSING
    num_heads: int = MISSING
    mlp_width: int = MISSING
    vocab_size: int = MISSING
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
    where it limits the run; peak_tflops: of the device; mfu: the share of it that is reached.
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
    "launch": {"local": Launch, "torchrun": Torchrun},
    "parallel": {"ddp": Parallel, "fsdp": Fsdp},
    "scale": {"scale": Scale},
}

SEVERAL = ("objective",)
"""Groups in which several choices can be made at once, each with its settings under its name."""

GROUPS_AND_SETTINGS = [f.name for f in dataclasses.fields(Run) if f.default is MISSING] + [
    "run",
    "seed",
]
"""The first words of every setting of a run."""

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
        kept = [f for f in dataclasses.fields(options) if f.metadata.get("identity", True)]
        return {
            "class": type(options).__name__,
            **{f.name: identity(getattr(options, f.name)) for f in kept},
        }
    if isinstance(options, Mapping):
        return {str(key): identity(value) for key, value in options.items()}
    if isinstance(options, list | tuple):
        return [identity(value) for value in options]
    return plain(options)


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that change whenever something that determines a result does."""
    text = json.dumps([identity(part) for part in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_LARGEST_SIZE, _MOST_LAYERS, _MOST_THREADS, _MOST_RANKS = 1 << 16, 1000, 1024, 1 << 16


def check(run: Run) -> None:
    """Every rule that concerns more than one field, or more than a field's type.

    Raises `UserError` with the first problem, before any work.
    """
    for problem in problems(run):
        raise UserError(problem)


def problems(run: Run) -> Iterator[str]:
    """What is wrong with a run's settings, one line each: setting, value, remedy."""
    for setting, value in leaves(run):
        yield from _problems_of_value(setting, value)
    asked = [
        f"run.{n}=true" for n in ("fresh", "export", "schedule", "plan") if getattr(run.run, n)
    ]
    if len(asked) > 1:
        yield f"{' and '.join(asked)}: these are different wishes; leave one out"
    for name in ("train_tokens", "peak_tflops"):
        yield from _above_0_or_null(f"run.{name}", getattr(run.run, name))
    yield from _between("run.mfu", run.run.mfu, 0.001, 1.0)
    yield from _problems_of_scale(run.scale)
    yield from _at_least("seed", run.seed, 0)
    yield from _problems_of_data("data", run.data)
    yield from _problems_of_task(run.task)
    if isinstance(run.student, MadeStudent):
        yield from _problems_of_model("student", run.student, run)
    for setting, teacher in each_teacher(run):
        yield from _problems_of_teacher(setting, teacher, run)
    if isinstance(run.teacher, SeveralTeachers):
        yield from _problems_of_members(run.teacher, run)
    yield from run.alpha.problems()
    yield from _problems_of_remap(run)
    yield from _problems_of_objective(run)
    yield from _problems_of_training(run)
    yield from _problems_of_eval(run.eval)


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


def warnings(run: Run) -> Iterator[str]:
    """Settings that have no effect, one line each."""
    keys = {override.lstrip("+~").partition("=")[0] for override in run.overrides}
    said = {re.split(r"[.@]", key)[0] for key in keys}
    if type(run.teacher) is Teacher:
        for group in sorted(said & {"alpha", "objective", "revise", "select"}):
            yield f"{group} has no effect with teacher=none: the student stands alone"
    elif "objective" in said and not any(
        value for name, value in vars(run.alpha).items() if name.startswith("soft")
    ):
        yield "objective has no effect with a soft weight of 0: the teacher is not listened to"
    made = [teacher for _, teacher in each_teacher(run) if isinstance(teacher, MadeTeacher)]
    if all(teacher.budget == 0 for teacher in made):
        for key in sorted(keys & {"scale.teacher_steps", "teacher.max_steps"}):
            yield f"{key} has no effect: no teacher is trained here"
        if any(teacher.data is not None for teacher in made):
            yield "teacher.data has no effect: no teacher is trained here"
    if "remap.width" in keys:
        models = [model for model in (run.teacher, run.student) if isinstance(model, Architecture)]
        if len(models) == 2 and len({(model.width, model.mlp_width) for model in models}) == 1:
            yield "remap.width has no effect: the teacher is as wide as the student"
    compared = {n: o for n, o in run.objective.items() if isinstance(o, Distributions)}
    for name, objective in compared.items():
        if objective.tau_squared and objective.temperature == objective.temperature_at(1) == 1:
            yield (f"objective.{name}.tau_squared has no effect at objective.{name}.temperature=1")
    for group, unlike in (("revise", Revise), ("select", Select)):
        if not compared and type(getattr(run, group)) is not unlike:
            yield f"{group} has no effect: no objective compares distributions"
    if not run.run.plan:
        for name in sorted(keys & {"run.train_tokens", "run.peak_tflops", "run.mfu"}):
            yield f"{name} has no effect without run.plan=true"
    if type(run.parallel) is not Parallel and type(run.launch) is Launch and "parallel" in said:
        yield "parallel has no effect with launch=local: choose launch=torchrun"
    if run.train.micro_batch_size == run.train.batch_size:
        yield (
            f"train.micro_batch_size={run.train.micro_batch_size} has no effect: it is all of "
            "train.batch_size"
        )
    if run.eval.num_blocks > run.data.max_heldout_blocks:
        yield (
            f"eval.num_blocks={run.eval.num_blocks} has no effect above "
            f"data.max_heldout_blocks={run.data.max_heldout_blocks}"
        )
    for name in sorted({key.split(".")[1] for key in keys if key.startswith("eval.")}):
        if dataclasses.is_dataclass(getattr(run.eval, name)) and name not in run.eval.measures:
            yield f"eval.{name} has no effect with eval.measures=[{','.join(run.eval.measures)}]"
    if isinstance(run, Evaluation) and (idle := sorted(keys & {"eval.at", "eval.every"})):
        yield f"{idle[0]} has no effect here: it is about a training"
    if run.train.max_minutes is not None:
        yield (
            "train.max_minutes makes the learning rate follow the clock: "
            "such a run is not reproducible step for step"
        )


def leaves(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below dataclasses and lists with its dotted name: what a user may have set."""
    if dataclasses.is_dataclass(options):
        for f in dataclasses.fields(options):
            if f.name not in ("choices", "overrides"):
                yield from leaves(getattr(options, f.name), f"{prefix}.{f.name}".lstrip("."))
    elif isinstance(options, Mapping):
        for name, value in options.items():
            yield from leaves(value, f"{prefix}.{name}")
    elif isinstance(options, list | tuple):
        for value in options:
            yield from leaves(value, prefix)
    else:
        yield prefix, options


def _problems_of_value(setting: str, value: Any) -> Iterator[str]:
    if isinstance(value, str) and not value.strip():
        yield f"{setting}={value!r}: it is empty; give a value, or leave the setting out"
    if isinstance(value, float) and (
        math.isnan(value) or (math.isinf(value) and setting != "optim.clip_norm")
    ):
        yield f"{setting}={value}: a finite number is needed"


def _problems_of_scale(scale: Scale) -> Iterator[str]:
    for name in ("width", "num_heads", "mlp_width"):
        yield from _between(f"scale.{name}", getattr(scale, name), 1, _LARGEST_SIZE)
    yield from _at_least("scale.vocab_size", scale.vocab_size, 100)
    yield from _at_least("scale.block_length", scale.block_length, 8)
    for name in ("batch_size", "teacher_steps", "eval_every", "checkpoint_every", "log_every"):
        yield from _at_least(f"scale.{name}", getattr(scale, name), 1)
    for name in ("max_steps", "epochs"):
        yield from _above_0_or_null(f"scale.{name}", getattr(scale, name))


def _above_0_or_null(setting: str, value: float | None) -> Iterator[str]:
    if value is not None and value <= 0:
        yield f"{setting}={value}: it is above 0, or null for no such limit"


def _at_least(setting: str, value: float, least: float) -> Iterator[str]:
    if value < least:
        yield f"{setting}={value}: it is at least {least}"


def _between(setting: str, value: float, low: float, high: float) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{setting}={value}: it lies between {low} and {high}"


def _problems_of_data(setting: str, data: Data) -> Iterator[str]:
    yield from _at_least(f"{setting}.block_length", data.block_length, 8)
    yield from _at_least(f"{setting}.vocab_size", data.vocab_size, 100)
    yield from _between(f"{setting}.heldout_fraction", data.heldout_fraction, 0.0001, 0.5)
    yield from _at_least(f"{setting}.max_heldout_blocks", data.max_heldout_blocks, 1)
    if data.max_gb <= 0:
        yield (
            f"{setting}.max_gb={data.max_gb}: the packed corpus needs room; give gigabytes above 0"
        )
    if isinstance(data, Hub):
        yield from _at_least(f"{setting}.every_nth_sentence", data.every_nth_sentence, 1)
        if not data.parts:
            yield f"{setting}.parts=[]: name at least one data set"


def _problems_of_task(task: Task) -> Iterator[str]:
    yield from _between("task.mask_ratio", task.mask_ratio, 0.01, 0.9)
    yield from _between("task.keep_ratio", task.keep_ratio, 0.0, 1.0)
    yield from _between("task.random_ratio", task.random_ratio, 0.0, 1.0)
    if task.keep_ratio + task.random_ratio > 1:
        yield (
            f"task.keep_ratio={task.keep_ratio} and task.random_ratio="
            f"{task.random_ratio}: together they are at most 1"
        )


def _problems_of_model(role: str, model: Architecture, run: Run) -> Iterator[str]:
    yield from _between(f"{role}.num_layers", model.num_layers, 1, _MOST_LAYERS)
    for name in ("width", "num_heads", "mlp_width"):
        yield from _between(f"{role}.{name}", getattr(model, name), 1, _LARGEST_SIZE)
    yield from _between(f"{role}.dropout", model.dropout, 0.0, 0.9)
    if model.num_heads >= 1 and model.width % model.num_heads:
        yield (
            f"{role}.width={model.width} does not divide into {role}.num_heads="
            f"{model.num_heads}: choose a multiple, as in {role}.width="
            f"{_next_multiple(model.width, model.num_heads)} (scale.width for all models)"
        )
    elif (
        model.family is Family.modernbert
        and model.num_heads >= 1
        and model.width // model.num_heads % 2
    ):
        yield (
            f"{role}.width={model.width} over {role}.num_heads={model.num_heads}: rotary "
            "positions need an even width per head; choose another scale.num_heads"
        )
    if model.vocab_size != run.data.vocab_size:
        yield (
            f"{role}.vocab_size={model.vocab_size} and data.vocab_size={run.data.vocab_size}: "
            "they are one vocabulary; set scale.vocab_size"
        )
    if model.max_length < run.data.block_length:
        yield (
            f"{role}.max_length={model.max_length} is shorter than data.block_length="
            f"{run.data.block_length}: raise the one or lower the other"
        )


def _problems_of_teacher(setting: str, teacher: Teacher, run: Run) -> Iterator[str]:
    if isinstance(teacher, ModelTeacher):
        yield from _temperature(f"{setting}.temperature", teacher.temperature)
    if isinstance(teacher, VirtualTeacher):
        even = 1 / run.data.vocab_size
        if not even < teacher.confidence < 1:
            yield (
                f"{setting}.confidence={teacher.confidence}: it lies above {even:.2g} (every "
                "entry of the vocabulary alike) and below 1; Tf-KD uses 0.99"
            )
    if not isinstance(teacher, MadeTeacher):
        return
    yield from _problems_of_model(setting, teacher, run)
    yield from _at_least(f"{setting}.max_steps", teacher.max_steps, 1)
    yield from _at_least(f"{setting}.seed", teacher.seed, 0)
    if teacher.budget not in BUDGETS:
        yield (
            f"{setting}.budget={teacher.budget}: a teacher is kept at these shares of its "
            f"training: {', '.join(f'{budget:g}' for budget in BUDGETS)}; choose one of them"
        )
    if teacher.data is not None:
        yield from _problems_of_teachers_text(f"{setting}.data", teacher.data, run)


def _problems_of_teachers_text(setting: str, text: Data, run: Run) -> Iterator[str]:
    yield from _problems_of_data(setting, text)
    if text.tokenizer is not None:
        yield (
            f"{setting}.tokenizer={text.tokenizer}: the teacher's text is in the tokens of the "
            "student's; set data.tokenizer"
        )
    for name in ("block_length", "vocab_size"):
        theirs, ours = getattr(text, name), getattr(run.data, name)
        if theirs != ours:
            yield (
                f"{setting}.{name}={theirs} and data.{name}={ours}: they are one; set scale.{name}"
            )


def _problems_of_members(several: SeveralTeachers, run: Run) -> Iterator[str]:
    members = several.members
    if len(members) < 2:
        yield (
            f"teacher.members={members}: several are two at least, as in "
            "teacher.members=[small,very_weak]"
        )
    for name, member in zip(members, several.teachers, strict=True):
        if type(member) in (Teacher, SeveralTeachers):
            yield f"teacher.members: {name} is not one teacher; leave it out"
    for setting in ("weights", "temperatures"):
        values = getattr(several, setting)
        if values and len(values) != len(members):
            yield (
                f"teacher.{setting}={values} and teacher.members={members}: give "
                f"{len(members)}, one for each, or none"
            )
    for weight in several.weights:
        if weight <= 0:
            yield f"teacher.weights={weight}: a member has a weight above 0; leave the member out"
    for temperature in several.temperatures:
        yield from _temperature("teacher.temperatures", temperature)
    micro = run.train.micro_batch_size
    if several.weighting is Weighting.batch and micro not in (None, run.train.batch_size):
        yield (
            f"teacher.weighting=batch with train.micro_batch_size={micro}: the weights follow the "
            "whole batch; use teacher.weighting=token, or train.micro_batch_size=null"
        )


def _problems_of_remap(run: Run) -> Iterator[str]:
    teacher = run.teacher
    if not isinstance(run.remap, FromTeacher):
        return
    rule = run.remap.depth
    if isinstance(run.student, CheckpointStudent):
        yield (
            f"remap.depth={rule} with student.path={run.student.path}: such a student starts from "
            "its own weights; choose remap=random"
        )
    elif type(teacher) is Teacher:
        yield (
            f"remap.depth={rule} with teacher=none: there are no weights to start "
            "from; choose a teacher (alpha=off remaps without listening) or remap=random"
        )
    elif not isinstance(teacher, ModelTeacher):
        yield (
            f"remap.depth={rule} with teacher={run.choices.get('teacher', '')}: the weights of one "
            "model are needed to start from; choose another teacher or remap=random"
        )
    if isinstance(run.remap, Ligo):
        yield from _at_least("remap.steps", run.remap.steps, 1)
        if run.remap.lr <= 0:
            yield f"remap.lr={run.remap.lr}: it is above 0"
        if not run.remap.head:
            yield "remap.head=false: maps are learned through the head; leave it out"


def _temperature(setting: str, temperature: float) -> Iterator[str]:
    if temperature <= 0:
        yield f"{setting}={temperature}: a temperature is above 0; the paper uses 1"


def _next_multiple(value: int, of: int) -> int:
    return -(-value // of) * of


def _problems_of_objective(run: Run) -> Iterator[str]:
    looking = [n for n, o in run.objective.items() if isinstance(o, MiniLM | Hidden)]
    if looking and type(run.teacher) is not Teacher and not isinstance(run.teacher, ModelTeacher):
        yield (
            f"objective={looking[0]} with teacher={run.choices.get('teacher', '')}: it looks "
            "inside one model; choose another teacher, or compare logits"
        )
    if not run.objective:
        yield "objective=[]: name at least one; teacher=none or alpha=off listens to nobody"
    for name, objective in run.objective.items():
        setting = f"objective.{name}"
        if objective.weight <= 0:
            yield f"{setting}.weight={objective.weight}: it is above 0; else leave {name} out"
        if isinstance(objective, Distributions):
            for key in ("temperature", "temperature_end"):
                value = getattr(objective, key)
                if value is not None and value <= 0:
                    yield f"{setting}.{key}={value}: a temperature is above 0; the paper uses 1"
        if isinstance(objective, JensenShannon):
            yield from _between(f"{setting}.beta", objective.beta, 0.01, 0.99)
        if isinstance(objective, TopK):
            yield from _between(f"{setting}.k", objective.k, 1, run.data.vocab_size - 1)
        if isinstance(objective, MiniLMv2) and objective.num_relation_heads is not None:
            yield from _at_least(f"{setting}.num_relation_heads", objective.num_relation_heads, 1)
        if isinstance(objective, Hidden):
            if not objective.pairs:
                yield f"{setting}.pairs=[]: name at least one pair, as in [[-1,-1]]"
            for pair in objective.pairs:
                if len(pair) != 2:
                    yield f"{setting}.pairs: {pair} is no pair [student layer, teacher layer]"
    if isinstance(run.revise, LabelRevision) and not 0 < run.revise.eta < 1:
        yield f"revise.eta={run.revise.eta}: it lies between 0 and 1, without them"
    if isinstance(run.revise, ConfidenceMix):
        yield from _between("revise.most", run.revise.most, 0.0, 1.0)
        yield from _between("revise.warmup", run.revise.warmup, 0.0, 1.0)
    if isinstance(run.select, Confident):
        yield from _between("select.threshold", run.select.threshold, 0.0, 1.0)


def _problems_of_training(run: Run) -> Iterator[str]:
    train, optim = run.train, run.optim
    if train.compile and type(run.parallel) is not Parallel:
        yield (
            "train.compile=true with parallel=fsdp: a sharded model is not compiled here; set "
            "train.compile=false, or parallel=ddp"
        )
    if train.compile and any(isinstance(o, MiniLM | Hidden) for o in run.objective.values()):
        yield (
            f"train.compile=true with objective={'+'.join(run.objective)}: what looks inside a "
            "model is not compiled; set train.compile=false, or compare logits alone"
        )
    limits = {
        "max_steps": train.max_steps,
        "epochs": train.epochs,
        "max_minutes": train.max_minutes,
    }
    if all(value is None for value in limits.values()):
        yield "train.max_steps, train.epochs and train.max_minutes are all null: set one of them"
    for name, value in limits.items():
        yield from _above_0_or_null(f"train.{name}", value)
    yield from _at_least("train.batch_size", train.batch_size, 1)
    micro = train.micro_batch_size
    if micro is not None and (micro < 1 or train.batch_size % micro):
        yield (
            f"train.micro_batch_size={micro} does not divide train.batch_size="
            f"{train.batch_size}: choose a divisor, or null for the whole batch"
        )
    yield from _at_least("train.checkpoint_every", train.checkpoint_every, 1)
    yield from _at_least("train.keep_checkpoints", train.keep_checkpoints, 1)
    yield from _at_least("train.log_every", train.log_every, 1)
    for name in ("lr", "eps", "clip_norm"):
        if getattr(optim, name) <= 0:
            yield f"optim.{name}={getattr(optim, name)}: it is above 0"
    yield from _at_least("optim.weight_decay", optim.weight_decay, 0)
    yield from _between("optim.warmup", optim.warmup, 0.0, 1.0)
    yield from _between("optim.decay", optim.decay, 0.0, 1.0)
    if optim.warmup + optim.decay > 1:
        yield (
            f"optim.warmup={optim.warmup} and optim.decay={optim.decay}: "
            "they are shares of one run, together at most 1"
        )
    if len(optim.betas) != 2:
        yield f"optim.betas={list(optim.betas)}: they are two, as in optim.betas=[0.9,0.98]"
    for beta in optim.betas:
        yield from _between("optim.betas", beta, 0.0, 0.9999)
    if isinstance(optim, Muon):
        if optim.hidden_lr <= 0:
            yield f"optim.hidden_lr={optim.hidden_lr}: it is above 0"
        yield from _between("optim.momentum", optim.momentum, 0.0, 0.9999)
        yield from _at_least("optim.hidden_weight_decay", optim.hidden_weight_decay, 0)
    yield from _problems_of_sharding(run)
    if isinstance(run.launch, Torchrun):
        yield from _problems_of_ranks(run.launch, train)
    if run.launch.num_threads is not None:
        yield from _between("launch.num_threads", run.launch.num_threads, 1, _MOST_THREADS)


def _problems_of_eval(options: Eval) -> Iterator[str]:
    yield from _at_least("eval.every", options.every, 1)
    yield from _at_least("eval.num_blocks", options.num_blocks, 1)
    for name in ("measures", "at"):
        if not getattr(options, name):
            yield f"eval.{name}=[]: name at least one"
    for share in options.at:
        yield from _between("eval.at", share, 0.0, 1.0)
    yield from _at_least("eval.glue.num_seeds", options.glue.num_seeds, 1)
    yield from _at_least("eval.glue.max_length", options.glue.max_length, 8)
    if options.blimp.num_pairs is not None:
        yield from _at_least("eval.blimp.num_pairs", options.blimp.num_pairs, 1)
    for name in ("num_sentences", "num_words", "num_per_word"):
        yield from _at_least(f"eval.probing.{name}", getattr(options.probing, name), 2)
    yield from _at_least("eval.probing.seed", options.probing.seed, 0)


def _problems_of_sharding(run: Run) -> Iterator[str]:
    if not isinstance(run.parallel, Fsdp):
        return
    remedy = "choose parallel=ddp"
    if isinstance(run.remap, Ligo):
        yield f"remap=ligo with parallel=fsdp: its maps are not sharded; {remedy}"
    if any(share < 1 for share in run.eval.at):
        yield f"eval.at={run.eval.at} with parallel=fsdp: it keeps no model on the way; {remedy}"
    for setting, teacher in each_teacher(run):
        if isinstance(teacher, MadeTeacher) and 0 < teacher.budget < 1:
            yield (
                f"{setting}.budget={teacher.budget:g} with parallel=fsdp: it keeps no model on "
                f"the way; {remedy}"
            )


def _problems_of_ranks(launch: Torchrun, train: Train) -> Iterator[str]:
    for name in ("gpus", "nodes"):
        yield from _between(f"launch.{name}", getattr(launch, name), 1, _MOST_RANKS)
    yield from _between("launch.max_restarts", launch.max_restarts, 0, _MOST_RANKS)
    if launch.max_wait_minutes <= 0:
        yield f"launch.max_wait_minutes={launch.max_wait_minutes}: it is above 0"
    endpoint = launch.rdzv_endpoint
    if endpoint is None and launch.nodes > 1:
        yield (
            f"launch.nodes={launch.nodes}: say where they meet, as in "
            "launch.rdzv_endpoint=HOST:29400, the same on each"
        )
    if endpoint is not None and not re.fullmatch(r"[^:]+:\d{1,5}", endpoint):
        yield f"launch.rdzv_endpoint={endpoint}: write HOST:PORT, as in node1:29400"
    if launch.gpus >= 1 and launch.nodes >= 1:
        try:
            train.num_parts(launch.gpus * launch.nodes)
        except UserError as problem:
            yield str(problem)
