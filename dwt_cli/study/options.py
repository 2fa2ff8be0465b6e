"""The options of a study: its arms, and the claims that it tests."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


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
