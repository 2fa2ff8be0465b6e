"""The options of a study: its arms, and the claims that it tests."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from dwt_cli.base.options import dotted


class Expect(Enum):
    """What a claim says of a loss: it is the lower one, or the higher one."""

    lower = "lower"
    higher = "higher"


@dataclass
class Claim:
    """What a study says beforehand: held-out loss of ``arm`` ends below, or above, ``against``'s.

    length: at which; null is a claim for every length. progress: the share of the run at which
    losses are compared; below 1 the curve is read at the nearest evaluation.
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

    baseline: the arm of the stand-alone student; null for none. smallest_effect: of interest, in
    nats of held-out loss; a difference below it is none. arms: what each one sets, as words of a
    command. exploratory: those that no claim is about.
    """

    question: str = MISSING
    baseline: str | None = "alone"
    smallest_effect: float = 0.02
    arms: dict[str, str] = MISSING
    exploratory: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what cannot be meant, one line each."""
        named = {
            "baseline": [] if self.baseline is None else [self.baseline],
            "exploratory": self.exploratory,
            "claims": [arm for claim in self.claims for arm in (claim.arm, claim.against)],
        }
        for where, arms in named.items():
            for arm in arms:
                if arm not in self.arms:
                    have = ", ".join(self.arms)
                    yield f"{dotted(setting, where)} names the arm {arm!r}, and there is {have}"
        if not self.smallest_effect >= 0:
            yield f"{dotted(setting, 'smallest_effect')}={self.smallest_effect}: it is at least 0"
        where = dotted(setting, "claims")
        for claim in self.claims:
            if not 0 < claim.progress <= 1:
                yield f"{where}: progress={claim.progress} is no share of a run; at most 1, above 0"
            if {claim.arm, claim.against} & set(self.exploratory):
                yield f"{where}: {claim.claim!r} is about an exploratory arm; leave one out"
