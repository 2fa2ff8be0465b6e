"""What is known of a finished run: its models, the comparison, the cost."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self


def heldout_masks(settings: Mapping[str, Any]) -> str:
    """Name the masks on held-out text of a run with these settings: only equal ones compare.

    settings: as config.yaml has them. Version 0.2 masked held-out text as the task said.
    """
    task, ratio = settings.get("task") or {}, (settings.get("eval") or {}).get("mask_ratio")
    if ratio is None:
        kept = (task.get("keep_ratio", 0.1), task.get("random_ratio", 0.1))
        ratios = (task.get("mask_ratio", 0.15), *kept)
    else:
        ratios = (ratio, 0.1, 0.1)
    return "{:g} masked, {:g} of them kept, {:g} random".format(*ratios)


_ROLES = ("student", "teacher", "stand_alone", "equal_flops")
_NULL = (*_ROLES, "flops", "tokens_to_stand_alone")  # what the file has though nobody knows it


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields that the file has, of any dataclass."""
    empty: dict[str, Any] = {"members": {}, "samples": []}
    return {
        name: value
        for name, value in fields
        if value != empty.get(name) or (value is None and name in _NULL)
    }


class Content:
    """A dataclass as JSON. What is not known is None, and left out of the file."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of a file."""
        return asdict(self, dict_factory=_known)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "") -> Self:
        """Return what `to_json` has made, of this or an earlier version.

        Raises KeyError where a field that has no default is not there.
        """
        known = {}
        for f in fields(cls):  # type: ignore[arg-type]
            if f.name in content:
                known[f.name] = content[f.name]
            elif f.default is MISSING and f.default_factory is MISSING:
                raise KeyError(f"{where}{f.name}")
        for role in _ROLES:
            if known.get(role) is not None:
                known[role] = Facts.from_json(known[role], f"{role}.")
        if "members" in known:
            known["members"] = {n: Facts.from_json(m) for n, m in known["members"].items()}
        return cls(**known)


@dataclass(frozen=True)
class Facts(Content):
    """A model and its training.

    parameters: distinct ones. heldout: its metrics on the held-out text, at its end; none of a
    teacher that reads other tokens.
    flops: of its training; null in the file where nobody knows. step_flops: of a step of the model
    alone, forward and backward. tokens: read in training.
    num_undone: steps that were taken and rolled back; their FLOPs are in ``flops``.
    num_taught: steps with a teacher. remap: FLOPs and seconds of the start from a teacher,
    held-out losses around it, and of another vocabulary's tokens how many are of each kind.
    members: of a mixture of teachers, by name. fresh: the weights of the head that its checkpoint
    did not have. crossing: the step at which its teacher was left, how it was found, and the FLOPs
    of that. signal: of one that is kept, its fingerprint, blocks and bytes per target, and the
    FLOPs of asking for them once. aligned: of a teacher that reads other tokens, the share of the
    student's which end where one of its own does; read: how many it reads, by token of the
    student's; unknown: the share of the chunks of text between that it cannot read, and that are
    left out; beyond: that of its tokens after what is read of a block. windows: in which a teacher
    reads a block that is longer than they are: positions of one, and how many they are. order: of a
    text read in part, its blocks, those chosen, the FLOPs of their scores, and a reference's own.
    tuning: of a model of which little was trained, how many numbers, and the share of its layers'
    matrices that was set to zero.
    """

    parameters: int
    heldout: dict[str, float]
    flops: float | None = None
    step_flops: float | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    num_skipped: int | None = None
    num_undone: int | None = None
    num_taught: int | None = None
    heldout_at_start: dict[str, float] | None = None
    best_heldout: dict[str, float | None] | None = None
    seconds: float | None = None
    remap: dict[str, Any] | None = None
    teacher_forward_flops: float | None = None
    members: "dict[str, Facts]" = field(default_factory=dict)
    fresh: list[str] | None = None
    crossing: dict[str, Any] | None = None
    signal: dict[str, Any] | None = None
    aligned: float | None = None
    read: float | None = None
    unknown: float | None = None
    beyond: float | None = None
    windows: dict[str, int] | None = None
    order: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None

    @property
    def scoring_flops(self) -> float:
        """FLOPs that were spent to choose the blocks that it reads."""
        return float(self.order["flops"]) if self.order else 0

    @property
    def calibration_flops(self) -> float:
        """FLOPs that were spent to find the step at which its teacher was left."""
        return float(self.crossing["flops"]) if self.crossing else 0

    @property
    def loss(self) -> float:
        """The held-out loss, in nats per target."""
        return self.heldout["loss"]


@dataclass(frozen=True)
class Summary(Content):
    """The content of summary.json.

    seconds: of the process that finished. corpus: fingerprint and report of the text.
    stand_alone: the same student without a teacher, if it is there; equal_flops: trained for so
    long that it takes as many FLOPs as this student and its teacher's forward passes.
    tokens_to_stand_alone: read when the held-out loss came to the stand-alone student's final one.
    samples: of a decoder, texts that it wrote. sync: the command that sends what a dashboard has
    not got.
    """

    name: str
    identity: str
    choices: dict[str, str]
    seed: int
    seconds: float
    peak_memory_gb: float
    corpus: dict[str, Any]
    student: Facts
    teacher: Facts | None = None
    stand_alone: Facts | None = None
    equal_flops: Facts | None = None
    tokens_to_stand_alone: float | None = None
    samples: list[str] = field(default_factory=list)
    sync: str | None = None

    @property
    def comparison(self) -> dict[str, Any]:
        """Held-out losses minus the stand-alone student's, in nats; empty without that one."""
        if self.stand_alone is None:
            return {}
        alone = self.stand_alone.loss
        gaps: dict[str, Any] = {"student_minus_stand_alone": self.student.loss - alone}
        if self.tokens_to_stand_alone is not None and self.stand_alone.tokens:
            gaps["tokens_saved"] = 1 - self.tokens_to_stand_alone / self.stand_alone.tokens
        if self.equal_flops is not None:
            gaps["student_minus_equal_flops"] = self.student.loss - self.equal_flops.loss
        if self.teacher is not None and self.teacher.heldout:
            gap = self.teacher.loss - alone
            gaps["teacher_minus_stand_alone"] = gap
            gaps["teacher_ahead"] = gap <= 0
            gaps["members_minus_stand_alone"] = {
                name: member.loss - alone for name, member in self.teacher.members.items()
            }
        return gaps

    @property
    def cost(self) -> dict[str, float | None]:
        """Tokens, FLOPs and seconds; None for the pre-training of a checkpoint."""
        student, teacher = self.student, self.teacher
        remap = student.remap or {"flops": 0, "seconds": 0.0}
        return {
            "tokens": student.tokens,
            "student_flops": student.flops,
            "teacher_forward_flops": student.teacher_forward_flops,
            "calibration_flops": student.calibration_flops,
            "scoring_flops": student.scoring_flops,
            "remap_flops": remap["flops"],
            "reference_pretraining_flops": (student.order or {}).get("reference_flops", 0),
            "teacher_pretraining_flops": 0 if teacher is None else teacher.flops,
            "student_seconds": student.seconds,
            "remap_seconds": remap["seconds"],
            "teacher_pretraining_seconds": 0 if teacher is None else teacher.seconds,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        return super().to_json() | {"comparison": self.comparison, "cost": self.cost}
