"""The options of a teacher: where the soft targets come from."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import II, MISSING

from dwt_cli.base.options import between, bookkeeping
from dwt_cli.data.options import Data
from dwt_cli.models.options import Architecture, Checkpoint


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

    width: int = between(1, 1 << 16, II("scale.teacher_width"))
    num_heads: int = between(1, 1 << 16, II("scale.teacher_num_heads"))
    mlp_width: int = between(1, 1 << 16, II("scale.teacher_mlp_width"))
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
    """What the weights of several teachers follow; see `dwt_cli.distill.teacher.mixture`."""

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
    teachers: list[Teacher] = field(default_factory=list, metadata={"names": "members"})
