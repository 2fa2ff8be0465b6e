"""Weights that a training removes on its way."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from dwt_cli.models.tuning import Tuning
from dwt_cli.training.protocols import Numbers, Observer


@dataclass
class Removal(Observer):
    """An observer that removes weights when a share of the training is reached.

    remove: does nothing where it was done before, as after a checkpoint that is later. Every rank
    has such an observer, and the same weights.
    """

    share: float
    remove: Callable[[], None]

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        if progress >= self.share:
            self.remove()


def removal_of(tuning: Tuning, model: PreTrainedModel, seed: int) -> list[Removal]:
    """Return what removes weights of a model that is not sharded, as its tuning says."""
    share = tuning.removes_at
    return [] if share is None else [Removal(share, lambda: tuning.remove(model, seed))]
