"""The options of a mixture of teachers. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from omegaconf import MISSING

from dwt_cli.base.options import SINCE_0_2, above, added, at_least, bookkeeping
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.options import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from dwt_cli.base.ranks import Ranks
    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.tasks.task import Batch

    Accuracy = Callable[[nn.Module], float]
    Watch = Callable[[nn.Module, Batch], None]

CHUNK_ROWS, NUM_TABLES = 256, 7
"""Rows whose tables over the vocabulary a policy has at a time, and how many tables."""


class Weighting(Enum):
    """Rules for the weights of several teachers; see `dwt_cli.distill.teacher.signal`."""

    fixed = "fixed"
    batch = "batch"
    token = "token"
    reinforced = "reinforced"


class Reward(Enum):
    """Reward of a policy; see `dwt_cli.distill.teacher.policy`.

    hard, both: how the student does on the batch after an episode; RL-KD's first two. gain: what
    each row's lesson takes off its label's loss; ours. shuffled: that of the next row, a control.
    probe: half of ``both``, and half the student's accuracy on blocks that nobody trains on, after
    RL-KD's third; how they are mixed was not checked against the paper's text.
    """

    hard = "hard"
    both = "both"
    gain = "gain"
    shuffled = "shuffled"
    probe = "probe"

    @property
    def is_by_row(self) -> bool:
        """True where each row has a reward of its own, and at once."""
        return self in (Reward.gain, Reward.shuffled)


@dataclass
class SeveralTeachers(Teacher):
    """A mixture of teachers: choices of this group by name, checkpoints by path or hub name.

    teachers: what the members' names stand for, filled in by `typed`. weights: in proportion, one
    per member; empty: equal. temperatures: one per member, on top of the member's own; empty: 1.
    reward: of the policy that chooses among them where the weighting is reinforced. episode: steps
    of the student between two of its own. probe: blocks of the training text that are set apart for
    the reward of this name.
    """

    members: list[str] = bookkeeping(MISSING)
    teachers: list[Teacher] = field(default_factory=list, metadata={"names": "members"})
    weights: list[float] = above(0, [], hint="else leave the member out")
    temperatures: list[float] = above(0, [], hint="the paper uses 1")
    weighting: Weighting = Weighting.fixed
    reward: Reward = added(Reward.gain)
    episode: int = at_least(1, 10, identity=SINCE_0_2)
    probe: int = at_least(1, 16, identity=SINCE_0_2)

    def each(self) -> Iterator[tuple[str, Teacher]]:
        for name, teacher in zip(self.members, self.teachers, strict=True):
            yield from ((f"teacher.members.{name}", single) for _, single in teacher.each())

    def checkpoints(self, setting: str = "teacher") -> Iterator[tuple[str, Checkpoint]]:
        for name, teacher in self.each():
            yield from teacher.checkpoints(name)

    @property
    def combined(self) -> "SeveralTeachers":
        return self

    @property
    def chooses(self) -> bool:
        """True where a policy chooses among the members."""
        return self.weighting is Weighting.reinforced

    @property
    def num_probe(self) -> int:
        """The number of blocks that are set apart from the text."""
        return self.probe if self.chooses and self.reward is Reward.probe else 0

    def student_flops(self, head: float, block: float) -> float:
        """Return the FLOPs of a step for what a policy asks of the student.

        Its logits in the target rows once more, and its answer to the probe. head: FLOPs of a
        product of these rows with the head's matrix. block: of a forward pass over a block.
        """
        if not self.chooses:
            return 0.0
        return (head + self.probe * block) / self.episode if self.num_probe else head

    def own_bytes(self, num_rows: int, vocab_size: int) -> int:
        """Return the bytes of a policy's tables over the vocabulary, beside the mixture's own."""
        return NUM_TABLES * min(CHUNK_ROWS, num_rows) * vocab_size * 4 if self.chooses else 0

    def combine(self, signals: "Sequence[TeacherSignal]", ranks: "Ranks") -> "TeacherSignal":
        """Return the signal that asks those of the members, in their order."""
        from dwt_cli.distill.teacher.policy import ReinforcedSignal
        from dwt_cli.distill.teacher.signal import MixtureSignal

        even = [1.0] * len(signals)
        settings = (signals, self.weights or even, self.temperatures or even, self.weighting)
        if self.chooses:
            return ReinforcedSignal(*settings, self.reward, self.episode, ranks)
        return MixtureSignal(*settings)

    def watched(self, signal: "TeacherSignal", accuracy: "Accuracy") -> "Watch | None":
        """Return what a signal of `combine` looks at before the student answers; None: nothing.

        accuracy: returns the student's on the probe, in 0..1; all ranks call it.
        """
        from dwt_cli.distill.teacher.policy import ReinforcedSignal

        if not self.num_probe:
            return None
        assert isinstance(signal, ReinforcedSignal), "it is made of these options"
        return partial(signal.look, accuracy)

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
            if teacher.is_student:
                yield f"{setting}.members: {name} has no distribution to mix; leave it out"
            if teacher.learns:
                yield (
                    f"{setting}.members: {name} learns beside the student, and members stay "
                    "frozen; name a frozen one, as small"
                )
        if self.chooses and self.weights:
            yield (
                f"{setting}.weights={self.weights} with {setting}.weighting=reinforced: a policy "
                f"chooses; leave {setting}.weights out"
            )
        for each in ("weights", "temperatures"):
            values = getattr(self, each)
            if values and len(values) != len(members):
                yield (
                    f"{setting}.{each}={values} and {setting}.members={members}: give "
                    f"{len(members)}, one for each, or none"
                )
