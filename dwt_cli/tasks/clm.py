"""Causal language modelling: the shift from inputs to targets, which stands here alone.

Legend: B blocks, L positions, N = B * (L - 1) target rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.likelihoods import Sentence, continuations
from dwt_cli.tasks.task import Batch, Place


@dataclass(frozen=True)
class NextToken:
    """The logits at position i are compared with the id at i + 1, of every block alike.

    A block begins with a document's mark, also in the middle of a document; the mark of a document
    that follows is a target like any other.

    mark_id: where documents are separated, the id of the mark, with which each begins as an input;
    None: they see those before them.
    """

    ragged: ClassVar[bool] = False
    num_patterns: ClassVar[int | None] = None

    mark_id: int | None = None

    def batch(self, blocks_BL: NDArray[np.int64], seed: int, places: Sequence[Place]) -> Batch:
        """Return int64 blocks (B, L) as they are, with the next id at each position but the last.

        Nothing is drawn.
        """
        ids_BL, documents_BL = torch.from_numpy(blocks_BL), None
        if self.mark_id is not None:
            documents_BL = (ids_BL == self.mark_id).cumsum(1)
        return Batch(ids_BL, *shifted(ids_BL), torch.tensor(places), documents_BL)

    def written(self, batch: Batch, tokens_N: Tensor) -> Tensor:
        """Return the blocks (B, L) of a batch, with tokens, int64, after the target rows."""
        return batch.ids_BL.flatten().scatter(0, batch.rows_N + 1, tokens_N).view_as(batch.ids_BL)

    def log_likelihoods(
        self, model: LanguageModel, sentences: Sequence[Sentence], device: torch.device
    ) -> NDArray[np.float64]:
        """Return log p in nats of the tokens between the two marks of each sentence."""
        return continuations(model, [(each[:-1], 1) for each in sentences], device)[0]


def shifted(ids_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places (N,) in the flattened positions that have a next one, and its id (N,)."""
    places_BL = torch.arange(ids_BL.numel(), device=ids_BL.device).view_as(ids_BL)
    return places_BL[:, :-1].flatten(), ids_BL[:, 1:].flatten()
