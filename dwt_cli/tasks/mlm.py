"""Masked language modelling: which positions of a block are masked.

Legend: B blocks, L positions, T targets of a block, N = B * T target rows, S sentences,
C masked copies of them, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.likelihoods import Sentence, equally_long
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.tasks.task import Batch, Place


@dataclass(frozen=True)
class Masking:
    """BERT's masking (80% [MASK], 10% random, 10% kept) on a fixed number of positions a block.

    The number is fixed so that shapes are static and a step's target count is known beforehand.
    special_ids are never drawn, and masked only in a block that has too few ordinary tokens.
    """

    ragged: ClassVar[bool] = False

    task: MaskedLM
    vocab_size: int
    mask_id: int
    special_ids: tuple[int, ...]

    @property
    def num_patterns(self) -> int | None:
        return self.task.num_patterns

    def batch(self, blocks_BL: NDArray[np.int64], seed: int, places: Sequence[Place]) -> Batch:
        """Mask int64 blocks (B, L), each with the random numbers of its own place."""
        num_blocks, length = blocks_BL.shape
        num_targets = self.task.num_targets(length)
        uniforms_BU = np.stack(
            [place.generator(seed).random(length + 2 * num_targets) for place in places]
        )
        keys_BL, action_BT, draw_BT = np.split(uniforms_BU, [length, length + num_targets], axis=1)
        # specials come last, and serve only when a block has too few ordinary tokens
        keys_BL = keys_BL + np.isin(blocks_BL, self.special_ids)
        positions_BT = np.sort(np.argpartition(keys_BL, num_targets)[:, :num_targets])
        labels_BT = np.take_along_axis(blocks_BL, positions_BT, axis=1)

        ordinary = np.setdiff1d(np.arange(self.vocab_size), self.special_ids)
        drawn_BT = ordinary[(draw_BT * len(ordinary)).astype(np.int64)]
        keep, random = self.task.keep_ratio, self.task.random_ratio
        shown_BT = np.where(
            action_BT < keep, labels_BT, np.where(action_BT < keep + random, drawn_BT, self.mask_id)
        )
        masked_BL = blocks_BL.copy()
        np.put_along_axis(masked_BL, positions_BT, shown_BT, axis=1)
        rows_BT = positions_BT + np.arange(num_blocks)[:, None] * length
        tensors = (masked_BL, rows_BT.reshape(-1), labels_BT.reshape(-1), np.array(places))
        ids_BL, rows_N, labels_N, places_B3 = map(torch.from_numpy, tensors)
        masked_N = torch.from_numpy(shown_BT.reshape(-1) == self.mask_id)
        return Batch(ids_BL, rows_N, labels_N, places_B3, masked_N=masked_N)

    def written(self, batch: Batch, tokens_N: Tensor) -> Tensor:
        """Return the blocks (B, L) of a batch, each target row with its token, int64."""
        return batch.ids_BL.flatten().scatter(0, batch.rows_N, tokens_N).view_as(batch.ids_BL)

    def log_likelihoods(
        self, model: LanguageModel, sentences: Sequence[Sentence], device: torch.device
    ) -> NDArray[np.float64]:
        """Return pseudo-log-likelihoods in nats (Salazar et al. 2020, 1910.14659).

        A masked model has no likelihood of a sentence; its eq. 1 is the sum over the tokens of
        log p(token | all the others).
        """
        found = np.zeros(len(sentences))
        for numbers, ids_SL in equally_long(sentences, device, lambda length: length - 2):
            found[numbers] = self._log_likelihood(model, ids_SL).cpu().numpy()
        return found

    def _log_likelihood(self, model: LanguageModel, ids_SL: Tensor) -> Tensor:
        """Return those of sentences of one length (S,), fp64: each token is masked in turn."""
        num_sentences, length = ids_SL.shape
        num_tokens = length - 2
        copies_STL = ids_SL[:, None].repeat(1, num_tokens, 1)
        copies_STL[:, :, 1:-1].diagonal(dim1=1, dim2=2).fill_(self.mask_id)
        positions_T = torch.arange(1, num_tokens + 1, device=ids_SL.device)
        copies_C = torch.arange(num_sentences * num_tokens, device=ids_SL.device)
        rows_C = copies_C * length + positions_T.repeat(num_sentences)
        logits_CV = model(copies_STL.flatten(0, 1), rows_C).logits_NV.float()
        labels_C = ids_SL[:, 1:-1].flatten()
        log_p_C = -nn.functional.cross_entropy(logits_CV, labels_C, reduction="none")
        return log_p_C.double().view(num_sentences, num_tokens).sum(1)
