"""The options of a mixture of teachers. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from omegaconf import MISSING

from dwt_cli.base.options import SINCE_0_2, above, added, at_least, bookkeeping
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.options import Checkpoint

if TYPE_CHECKING:
    from dwt_cli.distill.teacher.signal import TeacherSignal


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
    """

    hard = "hard"
    both = "both"
    gain = "gain"
    shuffled = "shuffled"

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
    of the student between two of its own.
    """

    members: list[str] = bookkeeping(MISSING)
    teachers: list[Teacher] = field(default_factory=list, metadata={"names": "members"})
    weights: list[float] = above(0, [], hint="else leave the member out")
    temperatures: list[float] = above(0, [], hint="the paper uses 1")
    weighting: Weighting = Weighting.fixed
    reward: Reward = added(Reward.gain)
    episode: int = at_least(1, 10, identity=SINCE_0_2)

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
        from dwt_cli.distill.teacher.policy import ReinforcedSignal
        from dwt_cli.distill.teacher.signal import MixtureSignal

        even = [1.0] * len(signals)
        settings = (signals, self.weights or even, self.temperatures or even, self.weighting)
        if self.weighting is Weighting.reinforced:
            return ReinforcedSignal(*settings, self.reward, self.episode)
        return MixtureSignal(*settings)

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
        if self.weighting is Weighting.reinforced and self.weights:
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
