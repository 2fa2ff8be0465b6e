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

    def log_likelihoods(
        self, model: LanguageModel, sentences: Sequence[Sentence], device: torch.device
    ) -> NDArray[np.float64]:
        """Return log p in nats of each of some framed sentences."""
