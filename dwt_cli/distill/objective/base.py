"""Bases of the objectives, which compare a student with its teacher. Imports no torch.

Legend: C rows of one chunk, V vocabulary, K some tokens of each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dwt_cli.base.options import above

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Objective:
    """One thing that is compared with the teacher. alpha_soft scales the weighted sum of all.

    across: whether the teacher may read other tokens.
    """

    across: ClassVar[bool] = False

    weight: float = above(0, 1.0, hint="else leave the objective out")

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        """Yield what is wrong with the settings for so many tokens or classes, a line each."""
        yield from ()


@dataclass
class Divergence(Objective, ABC):
    """Teacher and student over the vocabulary, on the target rows, at a temperature on both sides.

    temperature_end: where it is at the end of the run, in a straight line; null keeps it.
    tau_squared: multiply by its square (arXiv 1503.02531); the paper does not.
    """

    temperature: float = above(0, 1.0, hint="the paper uses 1")
    temperature_end: float | None = above(0, None, hint="the paper uses 1")
    tau_squared: bool = False

    @abstractmethod
    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        """Return how far the student's p is from the teacher's t, and the gradient, in fp32.

        The value is per row (C, 1), in nats; the gradient is with respect to the student's scores.
        """

    def temperature_at(self, progress: float) -> float:
        """Return the temperature after a share of the run, in [0, 1]."""
        end = self.temperature if self.temperature_end is None else self.temperature_end
        return self.temperature + (end - self.temperature) * progress

    def compare_entries(self, p: Distribution, t: EntryRows) -> tuple[Tensor, EntryGradient]:
        """Return the same of a teacher whose rows are some entries each; a few can do that."""
        raise NotImplementedError

    @property
    def is_plain(self) -> bool:
        """True where the temperature is 1 from the beginning to the end."""
        return self.temperature == 1 and self.temperature_end in (None, 1)


def divergences(objectives: Mapping[str, Objective]) -> dict[str, Divergence]:
    """Return those that compare distributions, by name."""
    return {name: each for name, each in objectives.items() if isinstance(each, Divergence)}


@dataclass(frozen=True)
class Distribution:
    """The softmax of scores, in fp32.

    top_C1: the highest score of each row. A log-probability is a score - log_z.
    """

    scores_CV: Tensor
    probabilities_CV: Tensor
    top_C1: Tensor
    log_z_C1: Tensor

    @classmethod
    def of(cls, scores_CV: Tensor) -> Distribution:
        """Return the softmax of fp32 scores."""
        probabilities_CV = scores_CV.softmax(-1)
        top_C1 = scores_CV.amax(-1, keepdim=True)
        # the largest probability is exp(top - log Z): log Z costs no second pass of exp
        log_z_C1 = top_C1 - probabilities_CV.amax(-1, keepdim=True).log()
        return cls(scores_CV, probabilities_CV, top_C1, log_z_C1)

    def at(self, tau: float | Tensor) -> Distribution:
        """Return the distribution at a temperature."""
        return Distribution.of(self.scores_CV / tau)

    def entropy(self) -> Tensor:
        """Return the entropy of each row, (C, 1), in nats."""
        return -self.probabilities_CV.xlogy(self.probabilities_CV).sum(-1, keepdim=True)

    def log_probabilities(self) -> Tensor:
        """Return them all, (C, V)."""
        return self.scores_CV - self.log_z_C1

    def log_probability(self, tokens_CK: Tensor) -> Tensor:
        """Return those of some tokens of each row, (C, K)."""
        return self.scores_CV.gather(1, tokens_CK) - self.log_z_C1

    def log_confidence(self) -> Tensor:
        """Return the likeliest token's, (C, 1)."""
        return self.top_C1 - self.log_z_C1

    def is_likeliest(self, tokens_C1: Tensor) -> Tensor:
        """Return whether no token is likelier than these, bool (C, 1)."""
        return self.scores_CV.gather(1, tokens_C1) >= self.top_C1


class EntryRows(NamedTuple):
    """Rows of a teacher as some entries each, at the temperature of the objective.

    Where there are centroids, a row is a share of one of them, and entries that correct it.

    They have the answers of a `Distribution` that have been kept: those about labels, of each row's
    own. ids_CK: int64; the head's, which are as likely as their weights say, come first.
    weights_CK: fp32, zero where a row has fewer; below zero where the share is too much.
    entropies_C1: of the whole row, in nats. labels_C1, tops_C1: log-probabilities of the label and
    of the likeliest token, at temperature 1, as entropies are only where the objective's is.
    are_likeliest_C1: whether that is the label.
    centroids_C1, shares_C1: int64 number of a centroid, and its factor in fp32. scores_C1: the mean
    of the student's scores by the centroid's probabilities.
    """

    ids_CK: Tensor
    weights_CK: Tensor
    entropies_C1: Tensor
    labels_C1: Tensor
    tops_C1: Tensor
    are_likeliest_C1: Tensor
    centroids_C1: Tensor | None = None
    shares_C1: Tensor | None = None
    scores_C1: Tensor | None = None

    def at(self, tau: float | Tensor) -> EntryRows:
        """Return the same, which are kept at one temperature, with the student's scores at it."""
        return self if self.scores_C1 is None else self._replace(scores_C1=self.scores_C1 / tau)

    def entropy(self) -> Tensor:
        return self.entropies_C1

    def log_probability(self, tokens_C1: Tensor) -> Tensor:
        return self.labels_C1

    def log_confidence(self) -> Tensor:
        return self.tops_C1

    def is_likeliest(self, tokens_C1: Tensor) -> Tensor:
        return self.are_likeliest_C1

    def part(self, rows: slice) -> EntryRows:
        """Return some of the rows."""
        return EntryRows(*(None if each is None else each[rows] for each in self))  # type: ignore[arg-type]


class Rows(NamedTuple):
    """Target rows as both models see them, at one temperature.

    progress: a share of the run; a tensor where the rows' pass is compiled.
    """

    student: Distribution
    teacher: Distribution | EntryRows
    labels_C1: Tensor
    progress: float | Tensor

    def at(self, tau: float | Tensor) -> Rows:
        """Return the same rows, both distributions at a temperature."""
        return self._replace(student=self.student.at(tau), teacher=self.teacher.at(tau))


Gradient = list[tuple[float, "Tensor"]]
"""A sum of tables (C, V), each with a factor."""

EntryGradient = tuple["Tensor", "Tensor"]
"""A factor (C, 1) of the student's probabilities, and what is added at the first entries (C, K)."""
