"""The options of the signal: whether the teacher is asked in each step, or once and cached.

Imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import SINCE_0_2, at_least, between, bookkeeping
from dwt_cli.distill.objective.base import Divergence
from dwt_cli.distill.objective.divergences import ForwardKL, TopK

if TYPE_CHECKING:
    from torch import Tensor

    from dwt_cli.distill.signal.estimators import Entries


@dataclass
class Signal:
    """A way in which the teacher's answers come to the student.

    cached: the settings of a cached signal; None: it is asked for in each step.
    """

    tag: ClassVar[str] = ""

    @property
    def cached(self) -> Cached | None:
        return None

    @property
    def imported(self) -> Imported | None:
        """The settings of rows that were written elsewhere; None: a teacher here is asked."""
        return None


@dataclass
class Online(Signal):
    """The teacher is beside the student, and asked in each step."""

    tag: ClassVar[str] = ""


@dataclass
class Cached(Signal, ABC):
    """Rows that are asked for once, and cached as a few entries each.

    num_entries: of a row, or draws. seed: of what is drawn. divergence: the one that compares such
    rows. num_levels: that the probabilities of the head are rounded to. num_uniforms: that a row
    needs. is_full: whether every row has ``num_entries``. num_shared: of the distributions of which
    rows have shares, which their entries correct; 0: entries are the row.
    """

    divergence: ClassVar[type[Divergence]] = ForwardKL
    is_full: ClassVar[bool] = True

    num_entries: int = at_least(1, 12)
    seed: int = at_least(0, 0)

    @property
    def cached(self) -> Cached:
        return self

    @property
    def is_biased(self) -> bool:
        """Whether what is kept of a row has another expectation than the row."""
        return self.divergence is not ForwardKL

    @property
    def num_levels(self) -> int:
        return 1023

    @property
    def num_uniforms(self) -> int:
        return 0

    @property
    def num_shared(self) -> int:
        return 0

    @abstractmethod
    def draw(self, t_NV: Tensor, uniforms_NU: Tensor) -> tuple[Entries, Tensor, Tensor]:
        """Return the entries of rows, and their `in_levels`.

        t_NV: fp64, each row sums to one; where there are centroids, less a share of one.
        """

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        """Yield what is wrong with the settings for a vocabulary of this size, a line each."""
        if self.num_entries >= vocab_size:
            yield (
                f"{setting}.num_entries={self.num_entries}: it is below the vocabulary's size of "
                f"{vocab_size}"
            )


@dataclass
class Threshold(Cached):
    """The likeliest tokens as they are, of the others some: unbiased.

    num_centroids: mean rows of the teacher's that are written down once; of each row only what
    differs from a share of the nearest one is chosen from, which had less variance on the teachers
    that were measured (benchmarks/README.md). 0: none, and of all unbiased choices of so many
    tokens the least variance.
    """

    num_centroids: int = between(0, 1024, 0, identity=SINCE_0_2)

    @property
    def num_shared(self) -> int:
        return self.num_centroids

    @property
    def num_levels(self) -> int:
        return 511 if self.num_centroids else super().num_levels

    @property
    def num_uniforms(self) -> int:
        return 2

    def draw(self, t_NV: Tensor, uniforms_NU: Tensor) -> tuple[Entries, Tensor, Tensor]:
        from dwt_cli.distill.signal.estimators import corrections, in_levels, threshold

        choose = corrections if self.num_centroids else threshold
        entries = choose(t_NV, self.num_entries, uniforms_NU[:, :1])
        most = 2.0 if self.num_centroids else 1.0
        return entries, *in_levels(entries, self.num_levels, uniforms_NU[:, 1:], most)


@dataclass
class Sampled(Cached):
    """Draws with replacement (arXiv 2503.16870): unbiased; ``num_entries`` is how many."""

    is_full: ClassVar[bool] = False

    @property
    def num_levels(self) -> int:
        return self.num_entries

    @property
    def num_uniforms(self) -> int:
        return self.num_entries

    def draw(self, t_NV: Tensor, uniforms_NU: Tensor) -> tuple[Entries, Tensor, Tensor]:
        from dwt_cli.distill.signal.estimators import in_levels, sampled

        entries = sampled(t_NV, uniforms_NU)
        return entries, *in_levels(entries, self.num_levels, uniforms_NU[:, :1] * 0 + 0.5)


@dataclass
class LikeliestOnly(Cached):
    """The likeliest tokens, and the rest as one outcome: biased, the tail has no shape."""

    tag: ClassVar[str] = "TopKSignal"
    divergence: ClassVar[type[Divergence]] = TopK

    def draw(self, t_NV: Tensor, uniforms_NU: Tensor) -> tuple[Entries, Tensor, Tensor]:
        from dwt_cli.distill.signal.estimators import in_levels, top_k

        entries = top_k(t_NV, self.num_entries)
        return entries, *in_levels(entries, self.num_levels, t_NV.new_full((len(t_NV), 1), 0.5))


@dataclass
class Imported(LikeliestOnly):
    """The likeliest tokens as a server wrote them, and the rest as one outcome: biased.

    path: of files, as a quoted glob; null: there are none yet. num_entries: of those at each
    position so many are taken. tokenizer: the sha256 sum of the tokenizer whose ids these are, as
    run.prompts=true says it.
    """

    path: str | None = bookkeeping(None)  # the files' sums are the teacher's
    tokenizer: str | None = bookkeeping(None)

    @property
    def imported(self) -> Imported:
        return self


SIGNALS: dict[str, type[Signal]] = {
    "online": Online,
    "threshold": Threshold,
    "sampled": Sampled,
    "top_k": LikeliestOnly,
    "imported": Imported,
}
