"""The blocks of its text that a student reads, by its teacher's scores. Imports no torch.

`Difference` is MiniPLM's difference sampling (arXiv 2410.17215), `Learnable` is after the selection
of SALT (arXiv 2410.18779), whose bounds were not checked against the paper's text: ours leave out
as many blocks on either side.

Legend: B blocks of the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import Range, at_least
from dwt_cli.distill.teacher.options import BUDGETS, CheckpointTeacher, Teacher

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

REFERENCE = "order.reference"


@dataclass
class Order:
    """All blocks, in each epoch in another random order."""

    tag: ClassVar[str] = ""

    @property
    def chosen(self) -> Chosen | None:
        """The options of a choice among blocks; None: all are read."""
        return None

    @property
    def scored(self) -> Scored | None:
        """The options of a choice for which the teacher reads the text; None: it need not."""
        return None


@dataclass
class Chosen(Order, ABC):
    """A share of the blocks, in each epoch in another random order.

    The student's own training does not read the others; those who score, a teacher that is trained
    here and a step that is looked for beforehand do.

    An epoch of ``train.epochs`` is as long as the whole text, so that runs are equally long.
    """

    share: float = field(default=0.5, metadata={"range": Range(0.0, 1.0, beyond=True, below=True)})

    @property
    def chosen(self) -> Chosen:
        return self

    def num_chosen(self, num_blocks: int) -> int:
        """Return how many blocks are read, one at least."""
        return max(1, round(self.share * num_blocks))

    def choose(self, losses: Sequence[Numbers], num_blocks: int, seed: int) -> NDArray[np.int64]:
        """Return the numbers of the blocks with the highest scores, rising; ties are drawn.

        losses: of each model that has read the text (B, 2), the teacher's first, in nats: the mean
        over a block's targets, and the median.
        """
        import numpy as np

        from dwt_cli.base.randomness import generator, seed_for

        draws_B = generator(seed_for(seed, "order", "blocks")).random(num_blocks)
        best_B = np.lexsort((draws_B, -self.scores(losses, draws_B)))
        return np.sort(best_B[: self.num_chosen(num_blocks)])

    @abstractmethod
    def scores(self, losses: Sequence[Numbers], draws_B: Numbers) -> Numbers:
        """Return the score of each block (B,). draws_B: what decides between equal ones."""


@dataclass
class RandomBlocks(Chosen):
    """A random share of the blocks: the control."""

    def scores(self, losses: Sequence[Numbers], draws_B: Numbers) -> Numbers:
        return 0 * draws_B


@dataclass
class Scored(Chosen):
    """A choice for which the teacher reads all of the text once, before the student does.

    num_patterns: of masks in which a block of a masked task is scored; each costs as much.
    """

    num_patterns: int = at_least(1, 1)

    @property
    def scored(self) -> Scored:
        return self

    def reference_to(self, teacher: Teacher) -> Teacher | None:
        """Return the model that reads the text besides; None: nobody does."""
        return None

    def checkpoints(self) -> Iterator[tuple[str, CheckpointTeacher]]:
        """Yield the model besides that exists already, with the setting that names it."""
        yield from ()

    def problems_with(self, setting: str, teacher: Teacher) -> Iterator[str]:
        """Yield what is wrong with the settings for this teacher, a line each."""
        yield from ()


@dataclass
class Difference(Scored):
    """Blocks on which the teacher is furthest ahead of a reference, by their mean losses.

    reference: that model's folder, or its name on the hub; null: the teacher itself after
    ``budget``, a share of its own training.
    """

    reference: str | None = None
    budget: float = 0.1

    def reference_to(self, teacher: Teacher) -> Teacher:
        for _, checkpoint in self.checkpoints():
            return checkpoint
        assert teacher.made, "config.check asks for one"
        return replace(teacher.made.frozen(), budget=self.budget)

    def checkpoints(self) -> Iterator[tuple[str, CheckpointTeacher]]:
        if self.reference is not None:
            yield REFERENCE, CheckpointTeacher(path=self.reference)

    def scores(self, losses: Sequence[Numbers], draws_B: Numbers) -> Numbers:
        theirs, reference = losses
        return reference[:, 0] - theirs[:, 0]

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for a budget at which no teacher is kept, or which nobody can be."""
        if self.budget not in BUDGETS[:-1]:
            yield (
                f"{setting}.budget={self.budget}: a teacher is kept at these shares of its "
                f"training: {', '.join(f'{budget:g}' for budget in BUDGETS[:-1])}; choose one"
            )

    def problems_with(self, setting: str, teacher: Teacher) -> Iterator[str]:
        if self.reference is not None:
            return
        if teacher.made is None:
            yield (
                f"{REFERENCE}=null: such a teacher is not made here, so there is no earlier one to "
                f"compare it with; set {REFERENCE} to a lesser model's folder"
            )
        elif self.budget >= teacher.made.budget:
            yield (
                f"{setting}.budget={self.budget} and teacher.budget={teacher.made.budget}: the "
                f"reference is an earlier one; lower {setting}.budget, or set {REFERENCE}"
            )


@dataclass
class Learnable(Scored):
    """Blocks on which the teacher's median loss is neither low nor high: the band in the middle."""

    def scores(self, losses: Sequence[Numbers], draws_B: Numbers) -> Numbers:
        import numpy as np

        ranks_B = np.lexsort((draws_B, losses[0][:, 1])).argsort()
        return -np.abs(ranks_B - (len(draws_B) - 1) / 2)


ORDERS: dict[str, type[Order]] = {
    "all": Order,
    "random": RandomBlocks,
    "difference": Difference,
    "learnable": Learnable,
}
