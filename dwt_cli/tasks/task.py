"""What a task makes of blocks: batches of inputs and targets.

Legend: B blocks, L positions, N target rows of all blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.base.randomness import generator
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.likelihoods import Sentence

HELDOUT = -1
"""The step of a block that no training step has drawn."""


class Place(NamedTuple):
    """The place of a sample: its block's number, the step, and its number in the step's batch.

    Of a held-out block step is `HELDOUT`, and sample the block's number again.
    """

    block: int
    step: int
    sample: int

    def generator(self, seed: int) -> np.random.Generator:
        """Return the sample's own random numbers: the same however a batch is split."""
        counters = (self.sample,) if self.step == HELDOUT else (self.step, self.sample)
        return generator(seed, *counters)


@dataclass(frozen=True)
class Batch:
    """Blocks as the model reads them, and what it is to predict.

    ids_BL: int64 token ids. rows_N: int64 places of the targets in the flattened (B * L)
    positions, block after block. labels_N: int64 ids to predict there. places_B3: int64, a `Place`
    for each block. documents_BL: int64 number of the document of each position, which sees no
    other; None: a block is one. masked_N: whether a target shows the mask; None: the task masks
    nothing. beside: tensors that were kept for its targets, if any were. ragged: whether a block
    may have more targets than another.
    """

    ids_BL: Tensor
    rows_N: Tensor
    labels_N: Tensor
    places_B3: Tensor
    documents_BL: Tensor | None = None
    masked_N: Tensor | None = None
    beside: tuple[Tensor, ...] = field(default=(), kw_only=True)
    ragged: bool = field(default=False, kw_only=True)

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What a `LanguageModel` is called with, before what is wanted of it."""
        return self.ids_BL, self.rows_N

    @property
    def num_rows(self) -> list[int]:
        """The number of target rows of each block."""
        num_blocks, length = self.ids_BL.shape
        counts: list[int] = torch.bincount(self.rows_N // length, minlength=num_blocks).tolist()
        return counts

    def taken(self, blocks: Sequence[int]) -> "Batch":
        """Return some of its blocks, by their numbers; each has as many targets as another."""
        assert not self.ragged and not self.beside
        chosen_B = torch.tensor(blocks, dtype=torch.int64, device=self.ids_BL.device)
        moved_B = torch.arange(len(blocks), device=chosen_B.device) - chosen_B

        def of_targets(each_N: Tensor) -> Tensor:
            return each_N.view(len(self.ids_BL), -1)[chosen_B]

        rows_BT = of_targets(self.rows_N) + moved_B[:, None] * self.ids_BL.shape[1]
        masked_N = None if self.masked_N is None else of_targets(self.masked_N).flatten()
        documents_BL = None if self.documents_BL is None else self.documents_BL[chosen_B]
        labels_N, places_B3 = of_targets(self.labels_N).flatten(), self.places_B3[chosen_B]
        shown = (self.ids_BL[chosen_B], rows_BT.flatten(), labels_N)
        return Batch(*shown, places_B3, documents_BL, masked_N)

    def joined(self, other: "Batch") -> "Batch":
        """Return the blocks of both, these ones first."""
        assert not self.beside and not other.beside
        tensors = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        both: dict[str, Any] = {}
        for name, each in tensors.items():
            both[name] = torch.cat([each, getattr(other, name)])
        both["rows_N"] = torch.cat([self.rows_N, other.rows_N + self.ids_BL.numel()])
        return replace(self, **both)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; a GPU copies pinned memory while it computes."""

        def moved(tensor: Tensor) -> Any:
            pinned = tensor.pin_memory() if device.type == "cuda" else tensor
            return pinned.to(device, non_blocking=True)

        tensors = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        named = {name: moved(tensor) for name, tensor in tensors.items()}
        return replace(self, **named, beside=tuple(map(moved, self.beside)))


class Targets(Protocol):
    """A task in the tokens of one tokenizer.

    ragged: whether a block may have more targets than another. num_patterns: how many sets of
    targets a block has, one for each epoch in turn; None: what is drawn is drawn anew.
    """

    ragged: ClassVar[bool]

    @property
    def num_patterns(self) -> int | None: ...

    def batch(self, blocks_BL: NDArray[np.int64], seed: int, places: Sequence[Place]) -> Batch:
        """Return blocks as a batch; what is drawn for one follows from ``seed`` and its place."""

    def written(self, batch: Batch, tokens_N: Tensor) -> Tensor:
        """Return the blocks (B, L) of a batch with these tokens, int64, in their labels' places."""

    def log_likelihoods(
        self, model: LanguageModel, sentences: Sequence[Sentence], device: torch.device
    ) -> NDArray[np.float64]:
        """Return log p in nats of each of some framed sentences."""
