"""The options of what is compared with the teacher."""

from dataclasses import dataclass, field
from enum import Enum


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

    @property
    def is_plain(self) -> bool:
        """Whether the temperature is 1 from the beginning to the end."""
        return self.temperature == 1 and self.temperature_end in (None, 1)


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
