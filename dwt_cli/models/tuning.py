"""The numbers of a student that are trained: all, or a few beside frozen ones. Imports no torch.

`Lora` is LoRA (arXiv 2106.09685), `Dsee` DSEE (arXiv 2111.00160). DSEE's steps follow the authors'
code as far as it was described to us, not the paper's text: reconstructed are the rank of the
decomposition, the moment of pruning, and that one training goes on after it. A removed head's
columns of the output matrix are zeros: names and shapes of the model stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import above, at_least, between

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Places(Enum):
    """Choice of the places of the sparse part, by the weights that a matrix starts with.

    decomposed: where W - U V is largest, of a greedy low-rank decomposition. largest: where W is.
    """

    decomposed = "decomposed"
    largest = "largest"
    random = "random"


class PruneBy(Enum):
    """The size by which weights of the tuned matrices stay; those of the others stay by their own.

    update: of what was added to them. weight: their own. random: drawn, in all matrices.
    """

    update = "update"
    weight = "weight"
    random = "random"


@dataclass
class Tuning:
    """All numbers of the student are trained."""

    tag: ClassVar[str] = ""
    freezes: ClassVar[bool] = False
    """Whether what the student starts with stays as it is."""

    @property
    def removes_at(self) -> float | None:
        """The share of the training after which weights are removed; None: none are."""
        return None

    def problems_with(self, sizes: tuple[int, int], num_heads: int) -> Iterator[str]:
        """Yield what does not fit a model, a line each.

        sizes: outputs and inputs of the smallest matrix that is tuned.
        """
        yield from ()

    def attach(self, model: PreTrainedModel, seed: int, trains_head: bool) -> None:
        """Add what is trained to a model, in place, and freeze the rest.

        seed: of what is drawn. trains_head: whether what follows the backbone is trained whole, as
        a classifier's head is. Raises `UserError` for sizes that the model does not have.
        """

    def remove(self, model: PreTrainedModel, seed: int) -> None:
        """Set weights and heads to zero, once: a second call does nothing."""

    def merged(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a copy of the model as `merge` leaves it; the model itself if that changes
        nothing."""
        return model

    def merge(self, model: PreTrainedModel) -> dict[str, Any] | None:
        """Make it an ordinary model again, in place; return an account of what was trained.

        trained: numbers. zeros: the share of the layers' matrices that is zero.
        """
        return None


@dataclass
class Lora(Tuning):
    """Queries' and values' matrices become W + alpha / rank * B A, of which B and A are trained.

    A begins as draws from N(0, 0.02), B as zeros. All else is frozen, but a classifier's head.
    """

    freezes: ClassVar[bool] = True

    rank: int = at_least(1, 16)
    alpha: float = above(0, 32.0)

    @property
    def scale(self) -> float:
        """The factor of what is added."""
        return self.alpha / self.rank

    def problems_with(self, sizes: tuple[int, int], num_heads: int) -> Iterator[str]:
        if self.rank > (least := min(sizes)):
            yield (
                f"tuning.rank={self.rank}: the student's queries and values are {sizes[0]} x "
                f"{sizes[1]}; set it to {least} or less"
            )

    @property
    def sparse(self) -> Dsee | None:
        """The options of a sparse part beside B A; None: there is none."""
        return None

    def attach(self, model: PreTrainedModel, seed: int, trains_head: bool) -> None:
        from dwt_cli.models import adapters

        for problem in self.problems_with(*adapters.sizes(model)):
            raise UserError(problem)
        adapters.attach(model, self, seed, trains_head)

    def merged(self, model: PreTrainedModel) -> PreTrainedModel:
        import copy

        model = copy.deepcopy(model)
        self.merge(model)
        return model

    def merge(self, model: PreTrainedModel) -> dict[str, Any] | None:
        from dwt_cli.models import adapters

        return adapters.merge(model)


@dataclass
class Dsee(Lora):
    """As lora, with trained numbers at fixed places beside B A, and weights that are removed.

    num_sparse: places in each matrix. prune: the share of W that is set to zero in the layers'
    matrices, the same in the tuned ones and in the others. heads: of each layer, how many are
    removed: those whose queries and values are changed least. remove_at: the share of the training
    after which this is done; what is left is trained on.
    """

    num_sparse: int = at_least(0, 64)
    places: Places = Places.decomposed
    prune: float = between(0.0, 0.99, 0.0)
    prune_by: PruneBy = PruneBy.update
    heads: int = at_least(0, 0)
    remove_at: float = above(0, 0.5, below=1)

    @property
    def removes_at(self) -> float | None:
        return self.remove_at if self.prune or self.heads else None

    def problems_with(self, sizes: tuple[int, int], num_heads: int) -> Iterator[str]:
        yield from super().problems_with(sizes, num_heads)
        if self.num_sparse > (there := sizes[0] * sizes[1]):
            yield (
                f"tuning.num_sparse={self.num_sparse}: a matrix of the student's queries or values "
                f"has {there:,} numbers; set it to fewer"
            )
        if self.heads >= num_heads:
            yield (
                f"tuning.heads={self.heads}: each layer of the student has {num_heads}, of which "
                f"one is to stay; set it to {num_heads - 1} or less"
            )

    @property
    def sparse(self) -> Dsee | None:
        return self if self.num_sparse else None

    def remove(self, model: PreTrainedModel, seed: int) -> None:
        from dwt_cli.models import adapters

        adapters.remove(model, self, seed)


TUNINGS: dict[str, type[Tuning]] = {"full": Tuning, "lora": Lora, "dsee": Dsee}
