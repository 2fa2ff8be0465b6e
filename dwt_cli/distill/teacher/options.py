"""The options of a teacher, the source of the soft targets. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from omegaconf import II, MISSING

from dwt_cli.base.identity import fingerprint
from dwt_cli.base.options import above, added, at_least, between, bookkeeping
from dwt_cli.data.options import Data
from dwt_cli.models.options import Architecture, Checkpoint, Head, path_setting, provenance
from dwt_cli.training.options import Optim

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.models.wrapper import LanguageModel


@dataclass
class Teacher:
    """A source of soft targets, or none.

    is_model: whether that is a single model, whose features can be compared and weights copied.
    """

    is_model: ClassVar[bool] = False

    def each(self) -> "Iterator[tuple[str, Teacher]]":
        """Yield every single teacher, with the setting that its own settings begin with."""
        yield "teacher", self

    @property
    def combined(self) -> "SeveralTeachers | None":
        """The options of one that is made of others; None: it is a single one."""
        return None

    @property
    def made(self) -> "MadeTeacher | None":
        """The options of a model that is made here; None: it exists, or is none."""
        return None

    def identity(self) -> str:
        """Return the fingerprint of what exists already and is read; the options count besides.

        Each kind has its own, so that no kind's content is taken for another's.
        """
        raise NotImplementedError

    def config(self, setting: str, head: Head) -> "PreTrainedConfig | None":
        """Return the model's configuration; None: it is none. setting: as of `each`."""
        return None

    def start(self, setting: str, head: Head) -> "tuple[PreTrainedModel | None, list[str]]":
        """Return the model, in fp32, before any training here, and its weights that are fresh.

        None: it is none.
        """
        return None, []

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        """Return the signal of what `start` has returned, for a vocabulary of this size."""
        raise NotImplementedError

    def checkpoints(self, setting: str = "teacher") -> Iterator[tuple[str, Checkpoint]]:
        """Yield every model that exists already, with the setting that names it."""
        yield from ()

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        """Yield what is wrong with the settings for a vocabulary of this size, a line each."""
        yield from ()


@dataclass
class NoTeacher(Teacher):
    """None: the student stands alone."""

    tag: ClassVar[str] = "Teacher"

    def each(self) -> "Iterator[tuple[str, Teacher]]":
        yield from ()


@dataclass
class ModelTeacher(Teacher):
    """A model beside the student.

    temperature: divides this teacher's logits, and nothing else, before the objective's own.
    """

    is_model: ClassVar[bool] = True

    temperature: float = above(0, 1.0, hint="the paper uses 1")

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        from dwt_cli.distill.teacher.signal import ModelSignal

        assert model is not None
        return ModelSignal(model, self.temperature)


BUDGETS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""The shares of its own pre-training at which a teacher is kept."""


@dataclass
class MadeTeacher(Architecture, ModelTeacher):
    """A teacher that is pre-trained here, once, by the same loop, and kept in the cache.

    It is as wide as the student, unless the scale has other sizes for teachers.

    budget: the share of that training after which it teaches, one of `BUDGETS`: the model on its
    way, its learning rate not yet decayed; 0 is untrained. data: text of its own, in the tokens of
    the student's; null: the student's text. It may contain the student's held-out text. optim: an
    optimiser of its own; null: the student's.
    """

    width: int = between(1, 1 << 16, II("scale.teacher_width"))
    num_heads: int = between(1, 1 << 16, II("scale.teacher_num_heads"))
    mlp_width: int = between(1, 1 << 16, II("scale.teacher_mlp_width"))
    seed: int = at_least(0, 0)
    max_steps: int = at_least(1, II("scale.teacher_steps"))
    budget: float = 1.0
    data: Data | None = None
    optim: Optim | None = added(None)

    @property
    def made(self) -> "MadeTeacher":
        return self

    def start(self, setting: str, head: Head) -> "tuple[PreTrainedModel, list[str]]":
        from dwt_cli.models.making import make_model

        return make_model(self, self.seed, "teacher"), []

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for a budget at which no teacher is kept."""
        if self.budget not in BUDGETS:
            yield (
                f"{setting}.budget={self.budget}: a teacher is kept at these shares of its "
                f"training: {', '.join(f'{budget:g}' for budget in BUDGETS)}; choose one of them"
            )


@dataclass
class CheckpointTeacher(Checkpoint, ModelTeacher):
    """A teacher that exists. An encoder without a head has even logits."""

    def identity(self) -> str:
        return fingerprint("checkpoint", provenance(self.path, self.revision))

    def start(self, setting: str, head: Head) -> "tuple[PreTrainedModel, list[str]]":
        from dwt_cli.models.checkpoint import open_model

        model, fresh = open_model(path_setting(setting), self, head, needs_head=False)
        for name in fresh:
            model.get_parameter(name).data.zero_()
        return model, fresh

    def checkpoints(self, setting: str = "teacher") -> Iterator[tuple[str, Checkpoint]]:
        yield path_setting(setting), self


@dataclass
class VirtualTeacher(Teacher):
    """No model: ``confidence`` on the true class, the rest spread evenly over all others."""

    confidence: float = above(0, hint="Tf-KD uses 0.99", below=1)

    def identity(self) -> str:
        return fingerprint("virtual")

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        from dwt_cli.distill.teacher.signal import VirtualSignal

        return VirtualSignal(self.confidence, vocab_size)

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        even = 1 / vocab_size
        if self.confidence <= even:
            yield (
                f"{setting}.confidence={self.confidence}: it is above {even:.2g}, which gives "
                "every entry of the vocabulary alike; Tf-KD uses 0.99"
            )


class Weighting(Enum):
    """Rules for the weights of several teachers; see `dwt_cli.distill.teacher.signal`."""

    fixed = "fixed"
    batch = "batch"
    token = "token"


@dataclass
class SeveralTeachers(Teacher):
    """A mixture of teachers: choices of this group by name, checkpoints by path or hub name.

    teachers: what the members' names stand for, filled in by `typed`. weights: in proportion, one
    per member; empty: equal. temperatures: one per member, on top of the member's own; empty: 1.
    """

    members: list[str] = bookkeeping(MISSING)
    teachers: list[Teacher] = field(default_factory=list, metadata={"names": "members"})
    weights: list[float] = above(0, [], hint="else leave the member out")
    temperatures: list[float] = above(0, [], hint="the paper uses 1")
    weighting: Weighting = Weighting.fixed

    def each(self) -> Iterator[tuple[str, Teacher]]:
        for name, teacher in zip(self.members, self.teachers, strict=True):
            yield from ((f"teacher.members.{name}", single) for _, single in teacher.each())

    def checkpoints(self, setting: str = "teacher") -> Iterator[tuple[str, Checkpoint]]:
        for name, teacher in self.each():
            yield from teacher.checkpoints(name)

    @property
    def combined(self) -> "SeveralTeachers":
        return self

    def combine(self, signals: "Sequence[TeacherSignal]") -> "TeacherSignal":
        """Return the signal that asks those of the members, in their order."""
        from dwt_cli.distill.teacher.signal import MixtureSignal

        even = [1.0] * len(signals)
        weights, temperatures = self.weights or even, self.temperatures or even
        return MixtureSignal(signals, weights, temperatures, self.weighting)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the members and what is given for each, a line each."""
        members = self.members
        if len(members) < 2:
            yield (
                f"{setting}.members={members}: several are two at least, as in "
                f"{setting}.members=[small,very_weak]"
            )
        for name, teacher in zip(members, self.teachers, strict=True):
            if [single for _, single in teacher.each()] != [teacher]:
                yield f"{setting}.members: {name} is not one teacher; leave it out"
        for each in ("weights", "temperatures"):
            values = getattr(self, each)
            if values and len(values) != len(members):
                yield (
                    f"{setting}.{each}={values} and {setting}.members={members}: give "
                    f"{len(members)}, one for each, or none"
                )


TEACHERS: dict[str, type[Teacher]] = {
    "none": NoTeacher,
    "made": MadeTeacher,
    "checkpoint": CheckpointTeacher,
    "virtual": VirtualTeacher,
    "several": SeveralTeachers,
}
