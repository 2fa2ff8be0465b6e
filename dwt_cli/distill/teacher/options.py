"""The options of a teacher, the source of the soft targets. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Self

from omegaconf import II

from dwt_cli.base.identity import fingerprint
from dwt_cli.base.options import SINCE_0_2, above, added, at_least, between
from dwt_cli.data.options import Data
from dwt_cli.models.options import (
    Architecture,
    Checkpoint,
    Head,
    Predicts,
    path_setting,
    provenance,
)
from dwt_cli.training.options import Optim

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from dwt_cli.data.surfaces import Surfaces
    from dwt_cli.distill.teacher.across import SpanSignal
    from dwt_cli.distill.teacher.several import SeveralTeachers
    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.models.features import FeatureSpec
    from dwt_cli.models.windows import Windows
    from dwt_cli.models.wrapper import LanguageModel


@dataclass
class Teacher:
    """A source of soft targets, or none.

    is_model: whether that is a single model, whose features can be compared and weights copied.
    is_student: whether it is the student, whose own features are. is_elsewhere: whether it is a
    model that is not here, of which nobody knows what it has taken. unmeasured: what it is, of one
    that is not asked about held-out text.
    """

    is_model: ClassVar[bool] = False
    is_student: ClassVar[bool] = False
    is_elsewhere: ClassVar[bool] = False
    unmeasured: ClassVar[str] = ""

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

    def config(self, setting: str, head: Predicts) -> "PreTrainedConfig | None":
        """Return the model's configuration; None: it is none. setting: as of `each`."""
        return None

    def start(self, setting: str, head: Predicts) -> "tuple[PreTrainedModel | None, list[str]]":
        """Return the model, in fp32, before any training here, and its weights that are fresh.

        None: it is none.
        """
        return None, []

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        """Return the signal of what `start` has returned, for a vocabulary of this size."""
        raise NotImplementedError

    def across(
        self, model: "LanguageModel", ours: "Surfaces", theirs: "Surfaces", head: Predicts
    ) -> "SpanSignal":
        """Return a single model's signal as it reads its own tokens, frozen, and the student ours.

        theirs: its own.
        """
        raise NotImplementedError

    @property
    def learns(self) -> bool:
        """True where modules of it are trained beside the student."""
        return False

    def frozen(self, *kept: str) -> Self:
        """Return the model as it is prepared: of the settings of its use those that are kept."""
        return self

    @property
    def shown(self) -> "FeatureSpec":
        """The features that it is asked for whatever is compared."""
        return frozenset()

    def learning_flops(self, forward: float, its_head: float, students_head: float) -> float:
        """Return the FLOPs of a step that its modules' learning takes beyond its forward pass.

        forward: of that. its_head, students_head: of a product of the target rows with a head's
        matrix.
        """
        return 0.0

    def checkpoints(self, setting: str = "teacher") -> Iterator[tuple[str, Checkpoint]]:
        """Yield every model that exists already, with the setting that names it."""
        yield from ()

    def problems_with(
        self, setting: str, config: "PreTrainedConfig", vocab_size: int
    ) -> Iterator[str]:
        """Yield what is wrong with the settings for this model, a line each."""
        yield from ()

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        """Yield what is wrong with the settings for so many tokens or classes, a line each."""
        yield from ()

    def windows(self, config: "PreTrainedConfig", length: int, head: Predicts) -> "Windows | None":
        """Return in which windows its model reads blocks of this length; None: as they are."""
        return None


@dataclass
class NoTeacher(Teacher):
    """None: the student stands alone."""

    tag: ClassVar[str] = "Teacher"

    def each(self) -> "Iterator[tuple[str, Teacher]]":
        yield from ()


class Online(Enum):
    """Place of a teacher's modules that learn beside the student, after OKD (arXiv 2409.12512).

    head: before the head alone. lora: in every layer, with a backward pass through the teacher.
    """

    none = "none"
    head = "head"
    lora = "lora"


@dataclass
class ModelTeacher(Teacher):
    """A model beside the student.

    temperature: divides this teacher's logits, and nothing else, before the objective's own.
    online: see `Online` and `dwt_cli.distill.teacher.online`. rank: of its modules. agreement: the
    weight of KL(teacher || student) beside their cross-entropy with the label; 0: labels alone.
    lr_scale: their peak rate, times optim.lr. window: positions in which it reads a longer block;
    null: as many as it has. overlap: the share of a window, at least, that the one before has read.
    """

    is_model: ClassVar[bool] = True

    temperature: float = above(0, 1.0, hint="the paper uses 1")
    online: Online = added(Online.none)
    rank: int = at_least(1, 8, identity=SINCE_0_2)
    agreement: float = at_least(0, 1.0, identity=SINCE_0_2)
    lr_scale: float = at_least(0, 1.0, identity=SINCE_0_2)
    window: int | None = at_least(2, None, identity=SINCE_0_2)
    overlap: float = between(0.0, 0.95, 0.5, identity=SINCE_0_2)

    @property
    def learns(self) -> bool:
        return self.online is not Online.none

    @property
    def shown(self) -> "FeatureSpec":
        # or the last layer would not call its linear maps, but take them apart
        return frozenset({("hidden", -1)} if self.online is Online.lora else ())

    def frozen(self, *kept: str) -> Self:
        of_use = {"online", "rank", "agreement", "lr_scale", "window", "overlap"}.difference(kept)
        return replace(self, **{n: v for n, v in vars(ModelTeacher()).items() if n in of_use})

    def windows(self, config: "PreTrainedConfig", length: int, head: Predicts) -> "Windows | None":
        from dwt_cli.models.anatomy import is_known, num_positions
        from dwt_cli.models.windows import Windows

        most = self.window or (num_positions(config) if is_known(config) else length)
        if most >= length or not isinstance(head, Head):
            return None
        return Windows(most, self.overlap, head is Head.causal)

    def across(
        self, model: "LanguageModel", ours: "Surfaces", theirs: "Surfaces", head: Predicts
    ) -> "SpanSignal":
        from dwt_cli.distill.teacher.across import SpanSignal

        return SpanSignal.of(model, ours, theirs, head, self.temperature)

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        assert model is not None
        if self.learns:
            from dwt_cli.distill.teacher.online import OnlineSignal

            return OnlineSignal(model, self)
        from dwt_cli.distill.teacher.signal import ModelSignal

        return ModelSignal(model, self.temperature)

    def learning_flops(self, forward: float, its_head: float, students_head: float) -> float:
        """Return those of both answers again, its own gradient, and with lora that of all layers.

        What the few numbers of its modules take is left out.
        """
        if not self.learns:
            return 0.0
        back = forward if self.online is Online.lora else its_head
        return back + its_head + (students_head if self.agreement else 0.0)

    def problems_with(
        self, setting: str, config: "PreTrainedConfig", vocab_size: int
    ) -> Iterator[str]:
        from dwt_cli.models.anatomy import is_known, num_positions

        if self.window and is_known(config) and self.window > (most := num_positions(config)):
            yield (
                f"{setting}.window={self.window}: this teacher reads {most} positions; lower it, "
                "or leave it out"
            )
        if not self.learns:
            return
        named = f"{setting}.online={self.online.name}"
        if not is_known(config):
            yield (
                f"{named}: the parts of a {config.model_type} are not known here; set "
                f"{setting}.online=none"
            )
        elif self.rank > config.hidden_size:
            yield f"{setting}.rank={self.rank}: the teacher is {config.hidden_size} wide; lower it"
        elif config.vocab_size != vocab_size:
            yield (
                f"{named}: it has {config.vocab_size} rows, the text {vocab_size}, and what is "
                f"taken away there does not learn; set {setting}.online=none"
            )


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

    def start(self, setting: str, head: Predicts) -> "tuple[PreTrainedModel, list[str]]":
        from dwt_cli.models.making import make_model

        return make_model(self, self.seed, "teacher"), []

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with its size, and a line for a budget at which none is kept."""
        yield from super().problems(setting)
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

    def reads(self, block_length: int) -> int:
        return min(self.window or block_length, block_length)

    def start(self, setting: str, head: Predicts) -> "tuple[PreTrainedModel, list[str]]":
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
                "every token or class alike; Tf-KD uses 0.99"
            )


@dataclass
class SelfTeacher(Teacher):
    """The student itself: its own features teach it, and it has no soft targets of its own."""

    is_student: ClassVar[bool] = True
    unmeasured: ClassVar[str] = "the student itself"

    def identity(self) -> str:
        return fingerprint("self")

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        from dwt_cli.distill.teacher.signal import OwnSignal

        return OwnSignal()
