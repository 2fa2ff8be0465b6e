"""The typed options of a run: one dataclass tree. `dwt_cli.config.check` checks it as a whole.

Hydra composes against these classes (each group file extends one of them), and `typed` turns the
composed config into plain objects, once. Nothing below the front door sees a DictConfig.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import II, MISSING

from dwt_cli.base.options import above, at_least, between, bookkeeping
from dwt_cli.config.launch import Basic, Joblib, Jobs, Launch, Local, Slurm, Submitit, Torchrun
from dwt_cli.data.options import OWN, Data, Docs, Files, Hub
from dwt_cli.distill.alpha import SCHEDULES, Schedule
from dwt_cli.distill.explore import EXPLORES, Explore
from dwt_cli.distill.objective.base import Objective, divergences
from dwt_cli.distill.objective.choices import FEATURE_OBJECTIVES
from dwt_cli.distill.objective.chunks import CHUNK_OBJECTIVES
from dwt_cli.distill.objective.divergences import DIVERGENCES
from dwt_cli.distill.objective.revise import REVISIONS, Revise
from dwt_cli.distill.objective.select import SELECTIONS, Select
from dwt_cli.distill.order import ORDERS, Order
from dwt_cli.distill.remap.options import FromTeacher, Ligo, RandomStart, Remap
from dwt_cli.distill.signal.options import SIGNALS, Signal
from dwt_cli.distill.teacher.choices import TEACHERS
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.options import (
    LARGEST_SIZE,
    MOST_LAYERS,
    CheckpointStudent,
    Family,
    MadeStudent,
    Student,
)
from dwt_cli.models.tuning import TUNINGS, Tuning
from dwt_cli.study.record import StudyOptions
from dwt_cli.tasks.labelled import Classification, GlueTask, Packages
from dwt_cli.tasks.options import CausalLM, MaskedLM, Task
from dwt_cli.track.options import NoTracker, Tracker, Wandb
from dwt_cli.training.options import (
    LARGEST_BATCH,
    AdamW,
    Ddp,
    Fsdp,
    Muon,
    Optim,
    Parallel,
    Train,
)


@dataclass
class Scale:
    """Absolute sizes and lengths; the other groups refer to them.

    num_layers: of student=large. teacher_num_layers: of teacher=small. family: the task's, unless
    the scale is that of certain models.
    """

    num_layers: int = between(1, MOST_LAYERS, 6)
    family: Family = II("task.family")
    width: int = between(1, LARGEST_SIZE)
    num_heads: int = between(1, LARGEST_SIZE)
    mlp_width: int = between(1, LARGEST_SIZE)
    vocab_size: int = at_least(100)
    teacher_num_layers: int = between(1, MOST_LAYERS, 4)
    teacher_width: int = between(1, LARGEST_SIZE, II("scale.width"))
    teacher_num_heads: int = between(1, LARGEST_SIZE, II("scale.num_heads"))
    teacher_mlp_width: int = between(1, LARGEST_SIZE, II("scale.mlp_width"))
    block_length: int = at_least(8)
    batch_size: int = between(1, LARGEST_BATCH)
    micro_batch_size: int | None = at_least(1, None)
    max_steps: int | None = above(0, hint="null is no such limit")
    epochs: float | None = above(0, None, hint="null is no such limit")
    teacher_steps: int = at_least(1)
    eval_every: int = at_least(1)
    checkpoint_every: int = at_least(1)
    log_every: int = at_least(1, 1)


LONGEST_NAME = 43
"""Characters of a run's name; with the fingerprint its folder's has 60."""

_NAME = rf"[A-Za-z0-9][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}"


class Mode(Enum):
    """Mode of a command: train, train anew, or one of four that need no training."""

    train = "train"
    fresh = "fresh"
    export = "export"
    schedule = "schedule"
    plan = "plan"
    prompts = "prompts"

    @property
    def trains(self) -> bool:
        """Whether the run is carried out."""
        return self in (Mode.train, Mode.fresh)


@dataclass
class RunOptions:
    """Folders of runs and prepared data, and the mode of the command.

    name: of the run's folder, before its fingerprint; null: what it is, in a few words.
    fresh: set it aside and start anew. export: save the model of its newest checkpoint, and exit.
    schedule: draw the loss weights over time as they are set, and exit.
    prompts: write down what signal=imported is to be asked elsewhere, and exit.
    plan: print what the run will take, and exit; for that, train_tokens: the length of the text,
    where it limits the run; peak_tflops: of the device; mfu: the share of it that is reached;
    device_gb: the memory of a GPU that is not here, null: the device that is.
    """

    root: str = "runs"
    cache: str | None = None
    name: str | None = None
    fresh: bool = False
    export: bool = False
    schedule: bool = False
    plan: bool = False
    prompts: bool = False
    train_tokens: int | None = above(0, None)
    peak_tflops: float | None = above(0, None)
    mfu: float = between(0.001, 1.0, 0.4)
    device_gb: float | None = above(0, None)

    @property
    def mode(self) -> Mode:
        """The mode that is asked for: one of the five that are false by default, or a training."""
        return next((mode for mode in Mode if getattr(self, mode.name, False)), Mode.train)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line where more than one mode is asked for."""
        asked = [f"{setting}.{mode.name}=true" for mode in Mode if getattr(self, mode.name, False)]
        if len(asked) > 1:
            yield f"{' and '.join(asked)}: only one of them is possible; leave the others out"
        if self.name is not None and not re.fullmatch(_NAME, self.name):
            yield (
                f"{setting}.name={self.name}: at most {LONGEST_NAME} letters, digits and _ . + -; "
                "write another"
            )


@dataclass
class Run:
    """Everything that one run is made of.

    choices: the name picked in each config group. overrides: the words that were typed, and those
    that follow from the models that are opened; found: what is said about these.
    """

    data: Data = MISSING
    task: Task = MISSING
    teacher: Teacher = MISSING
    student: Student = MISSING
    tuning: Tuning = MISSING
    alpha: Schedule = MISSING
    remap: Remap = MISSING
    objective: dict[str, Objective] = MISSING
    revise: Revise = MISSING
    select: Select = MISSING
    signal: Signal = MISSING
    explore: Explore = MISSING
    order: Order = MISSING
    optim: Optim = MISSING
    train: Train = MISSING
    eval: Eval = MISSING
    tracker: Tracker = bookkeeping(MISSING)
    launch: Launch = bookkeeping(MISSING)
    parallel: Parallel = bookkeeping(MISSING)
    jobs: Jobs = bookkeeping(MISSING)
    scale: Scale = bookkeeping(MISSING)
    run: RunOptions = field(default_factory=RunOptions, metadata={"identity": False})
    seed: int = at_least(0, 0)
    choices: dict[str, str] = field(default_factory=dict, metadata={"identity": False})
    overrides: list[str] = field(default_factory=list, metadata={"identity": False})
    found: list[str] = field(default_factory=list, metadata={"identity": False})

    @property
    def shares_vocabulary(self) -> bool:
        """True where models that are opened have the text's vocabulary, or are refused."""
        is_apart = self.remap.needs_teacher and not self.remap.shares_rows
        if not divergences(self.objective):  # no token is compared with its like
            opened = [*self.teacher.checkpoints(), *self.student.checkpoints()]
            is_apart |= self.data.tokenizer not in (None, *(each.path for _, each in opened))
        return self.data.tokenizer != OWN and not is_apart

    @property
    def evaluation(self) -> "Evaluation | None":
        """The evaluation that it is; None: it is a run."""
        return None

    @property
    def of_study(self) -> "Study | None":
        """The run with its place in a study; None: it is in none."""
        return None


@dataclass
class Evaluation(Run):
    """Options of ``dwt-eval``, for a model that exists. Those of a training are idle here."""

    model: str = MISSING
    revision: str | None = None

    @property
    def evaluation(self) -> "Evaluation":
        return self


@dataclass
class Study(Run):
    """One run of a study: an arm at a length (optimizer steps, times ``stretch``) and a seed.

    own: the words of the command, without its arm's.
    """

    study: StudyOptions = field(default_factory=StudyOptions)
    arm: str = MISSING
    length: int = MISSING
    stretch: float = 1.0
    own: list[str] = field(default_factory=list, metadata={"identity": False})

    @property
    def of_study(self) -> "Study":
        return self

    @property
    def asked_by(self) -> list[str]:
        """The words of the study's command that ask for this run: its arm's follow from them."""
        return self.own


SCHEMAS: dict[str, dict[str, type]] = {
    "data": {"docs": Docs, "files": Files, "hub": Hub},
    "task": {
        "mlm": MaskedLM,
        "clm": CausalLM,
        "classification": Classification,
        "glue": GlueTask,
        "packages": Packages,
    },
    "teacher": dict(TEACHERS),
    "student": {"made": MadeStudent, "checkpoint": CheckpointStudent},
    "tuning": dict(TUNINGS),
    "alpha": dict(SCHEDULES),
    "remap": {"random": RandomStart, "rules": FromTeacher, "ligo": Ligo},
    "objective": {**DIVERGENCES, **FEATURE_OBJECTIVES, **CHUNK_OBJECTIVES},
    "revise": dict(REVISIONS),
    "select": dict(SELECTIONS),
    "signal": dict(SIGNALS),
    "explore": dict(EXPLORES),
    "order": dict(ORDERS),
    "optim": {"adamw": AdamW, "muon": Muon},
    "train": {"default": Train},
    "eval": {"eval": Eval},
    "tracker": {"none": NoTracker, "wandb": Wandb},
    "launch": {"local": Local, "torchrun": Torchrun, "slurm": Slurm},
    "parallel": {"ddp": Ddp, "fsdp": Fsdp},
    "jobs": {"basic": Basic, "joblib": Joblib, "submitit": Submitit},
    "scale": {"scale": Scale},
}

SEVERAL = ("objective",)
"""Groups in which several choices can be made at once, each with its settings under its name."""

DISTILLATION = ("alpha", "remap", "objective", "revise", "select", "signal", "explore", "order")
"""Groups about what a student takes from its teacher: idle with teacher=none."""

GROUPS_AND_SETTINGS = [f.name for f in dataclasses.fields(Run) if f.default is MISSING] + [
    "run",
    "seed",
]
"""The first words of every setting of a run."""

STUDY_SETTINGS = [*GROUPS_AND_SETTINGS, "arm", "length", "stretch", "study"]
"""The first words of the settings of a study's primary config."""

EVAL_SETTINGS = [
    "model", "revision", "eval", "data", "task", "scale", "train", "tracker", "launch", "run",
]  # fmt: skip
"""The first words of the settings that an evaluation uses."""
