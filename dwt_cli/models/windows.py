"""A model that reads blocks longer than itself in windows, which overlap.

Legend: B blocks, L positions, K windows of a block, W positions of a window, N target rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import is_known
from dwt_cli.models.features import Features
from dwt_cli.models.wrapper import LOGITS, LanguageModel, Output, Want


@dataclass(frozen=True)
class Windows:
    """The windows of a block. Each begins with the block's first token, as the block itself does.

    They are evenly spread, and the last one ends with the block. length: of one, in positions.
    overlap: the share of it, at least, that the one before has read. causal: an answer is taken
    from the window where most is seen before it; else from the one in whose middle it is most.
    """

    length: int
    overlap: float
    causal: bool

    def starts(self, block_length: int) -> list[int]:
        """Return the position of the second token of each window."""
        after_first = self.length - 1
        beyond = block_length - self.length
        stride = max(1, round(after_first * (1 - self.overlap)))
        last = -(-beyond // stride)
        return [1 + number * beyond // max(1, last) for number in range(last + 1)]

    def positions(self, block_length: int) -> Tensor:
        """Return the positions of the block that each window reads, int64 (K, W)."""
        starts_K = torch.tensor(self.starts(block_length))
        after_first_KW = starts_K[:, None] + torch.arange(self.length - 1)
        return torch.nn.functional.pad(after_first_KW, (1, 0))

    def answers(self, block_length: int) -> Tensor:
        """Return the place in all windows (K * W) where each position is answered, int64 (L,)."""
        positions_KW, places_L = self.positions(block_length), torch.arange(block_length)
        starts_K1, ends_K1 = positions_KW[:, 1:2], positions_KW[:, -1:]
        off_middle_KL = (2 * places_L - starts_K1 - ends_K1).abs()
        worth_KL = -starts_K1.expand_as(off_middle_KL) if self.causal else -off_middle_KL
        is_read_KL = (starts_K1 <= places_L) & (places_L <= ends_K1)
        chosen_L = worth_KL.masked_fill(~is_read_KL, -2 * block_length).argmax(0)
        found_L = chosen_L * self.length + 1 + places_L - starts_K1[chosen_L, 0]
        return torch.where(places_L == 0, 0, found_L)

    def layer_bytes(
        self, model: PreTrainedModel, num_blocks: int, block_length: int, itemsize: int
    ) -> int:
        """Return what a layer has at once of all windows of some blocks, without a backward pass.

        Five tables of states and four of its inner map, at most; all logits of an unknown family.
        """
        config, number = model.config, len(self.starts(block_length))
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        width = 5 * config.hidden_size + 4 * inner + config.vocab_size * (not is_known(config))
        return num_blocks * number * self.length * width * itemsize

    def around(
        self, model: PreTrainedModel, dtype: torch.dtype, device: torch.device | None = None
    ) -> LanguageModel:
        """Return a model that reads so."""
        return WindowedModel(model, dtype, device, self)


class WindowedModel(LanguageModel):
    """A language model whose answers come from windows of a block that is longer than they are.

    Rows, logits and hidden states are those of the whole block, in their order; of documents that
    are kept apart each window has its part.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        device: torch.device | None,
        windows: Windows,
    ) -> None:
        super().__init__(model, dtype, device)
        self.windows = windows

    def forward(self, ids_BL: Tensor, rows_N: Tensor, want: Want = LOGITS) -> Output:
        assert self.windows is not None
        num_blocks, length = ids_BL.shape
        if length <= self.windows.length:
            return super().forward(ids_BL, rows_N, want)
        assert want.seen_BLL is None and want.present_BL is None, "a teacher's blocks are whole"
        positions_KW = self.windows.positions(length).to(ids_BL.device)
        answers_L = self.windows.answers(length).to(ids_BL.device)
        inside = want._replace(ragged=True)
        if want.documents_BL is not None:
            inside = inside._replace(documents_BL=_documents(want.documents_BL, positions_KW))
        first_N = rows_N // length * positions_KW.numel()
        ids = ids_BL[:, positions_KW].flatten(0, 1)
        output = super().forward(ids, first_N + answers_L[rows_N % length], inside)
        if (features := output.features) is None:
            return output
        assert not features.heads, "what is between positions of two windows is not known"

        def whole(states: Tensor) -> Tensor:
            return states.reshape(num_blocks, -1, states.shape[-1])[:, answers_L]

        return output._replace(features=_mapped(features, whole, want.documents_BL))


def _mapped(
    features: Features, whole: Callable[[Tensor], Tensor], documents_BL: Tensor | None
) -> Features:
    hidden = {number: whole(states) for number, states in features.hidden.items()}
    return features._replace(hidden=hidden, documents_BL=documents_BL)


def _documents(documents_BL: Tensor, positions_KW: Tensor) -> Tensor:
    """Return the documents of the windows' positions (B * K, W).

    A window's first token is the mark of the document that it begins within.
    """
    read_BKW = documents_BL[:, positions_KW]
    before_BK = documents_BL[:, positions_KW[:, 1] - 1]
    goes_on_BK = read_BKW[..., 1] == before_BK
    read_BKW[..., 0] = torch.where(goes_on_BK, read_BKW[..., 1], read_BKW[..., 0])
    return read_BKW.flatten(0, 1)
