"""Causal language modelling: the shift from inputs to targets, which stands here alone.

Legend: B blocks, L positions, N = B * (L - 1) target rows, S sentences, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dwt_cli.models.wrapper import Want
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

    mark_id: int | None = None

    def num_targets(self, block_length: int) -> int:
        """Return the number of positions that have a next one."""
        return block_length - 1

    def batch(self, blocks_BL: NDArray[np.int64], seed: int, places: Sequence[Place]) -> Batch:
        """Return int64 blocks (B, L) as they are, with the next id at each position but the last.

        Nothing is drawn.
        """
        ids_BL, documents_BL = torch.from_numpy(blocks_BL), None
        if self.mark_id is not None:
            documents_BL = (ids_BL == self.mark_id).cumsum(1)
        return Batch(ids_BL, *shifted(ids_BL), torch.tensor(places), documents_BL, tiled=True)

    def num_passes(self, length: int) -> int:
        """Return 1: one pass sees every token after those before it."""
        return 1

    def log_likelihood(self, model: nn.Module, ids_SL: Tensor) -> Tensor:
        """Return log p (S,) in nats, fp64, of the tokens between the two marks of each sentence."""
        given_S = torch.ones(len(ids_SL), dtype=torch.long, device=ids_SL.device)
        return continuation(model, ids_SL[:, :-1], given_S)[0]


def continuation(model: nn.Module, ids_SL: Tensor, given_S: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p (S,) in nats, fp64, of the ids after the first ``given_S``, given these.

    And whether greedy decoding would write just them (S,). given_S: int64, at least 1.
    """
    asked_SL = torch.arange(1, ids_SL.shape[1], device=ids_SL.device) >= given_S[:, None]
    rows_N = asked_SL.flatten().nonzero().squeeze(1)
    labels_N = ids_SL[:, 1:][asked_SL]
    logits_NV = model(ids_SL[:, :-1], rows_N, Want(ragged=True)).logits_NV.float()
    losses_SL = torch.zeros(asked_SL.shape, dtype=torch.float64, device=ids_SL.device)
    losses_SL[asked_SL] = nn.functional.cross_entropy(
        logits_NV, labels_N, reduction="none"
    ).double()
    missed_SL = torch.zeros_like(asked_SL)
    label_N = logits_NV.gather(1, labels_N[:, None]).squeeze(1)
    missed_SL[asked_SL] = label_N < logits_NV.amax(-1)  # argmax takes five times as long
    return -losses_SL.sum(1), ~missed_SL.any(1)


def shifted(ids_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places (N,) in the flattened positions that have a next one, and its id (N,)."""
    places_BL = torch.arange(ids_BL.numel(), device=ids_BL.device).view_as(ids_BL)
    return places_BL[:, :-1].flatten(), ids_BL[:, 1:].flatten()
