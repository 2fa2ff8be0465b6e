"""``batch(step)``: any part of any step's batch, for anyone, without having made the ones before.

Legend: B blocks, L positions, N target rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.data.pack import Blocks
from dwt_cli.tasks.task import HELDOUT, Batch, Place, Targets

Beside = Callable[[Batch], tuple[Tensor, ...]]
"""Returns the tensors that were cached for a batch, on the CPU; none, if there are none."""


class TrainBatches:
    """The training batches of one purpose: all that is drawn follows from (seed, purpose).

    Each epoch is a permutation of all blocks. The samples of a step are numbered 0 ..
    batch_size - 1; a part (a rank's, a micro-batch's) is a range of them. beside: returns what was
    kept for a batch, and goes with it.
    """

    def __init__(
        self,
        blocks: Blocks,
        targets: Targets,
        batch_size: int,
        seed: int,
        purpose: str,
        beside: Beside | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._blocks, self._targets, self._beside = blocks, targets, beside
        self._order_seed = seed_for(seed, purpose, "order")
        self._draw_seed = seed_for(seed, purpose, "masks")
        if targets.num_patterns:
            self._draw_seed = seed_for("patterns", purpose)

    @property
    def steps_per_epoch(self) -> float:
        return len(self._blocks) / self.batch_size

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self._blocks.block_length

    def num_targets(self, step: int) -> int:
        """Return the number of targets of a step's whole batch, of all ranks."""
        return self._num_targets(step if self._targets.ragged else 0)

    @lru_cache(maxsize=2)  # noqa: B019 - a source lives as long as its process
    def _num_targets(self, step: int) -> int:
        return len(self.batch(step).labels_N)

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Batch:
        """Return part ``part`` of ``num_parts`` equal, consecutive parts of a step's batch."""
        assert self.batch_size % num_parts == 0 and 0 <= part < num_parts
        size = self.batch_size // num_parts
        samples = range(part * size, (part + 1) * size)
        batch = self.of([self._place(step, sample) for sample in samples])
        return replace(batch, beside=self._beside(batch)) if self._beside else batch

    @property
    def block_length(self) -> int:
        return self._blocks.block_length

    def places(self, step: int) -> list[Place]:
        """Return the places of a step's samples."""
        return [self._place(step, sample) for sample in range(self.batch_size)]

    def of(self, places: Sequence[Place]) -> Batch:
        """Return the blocks of some places as a batch, without what is kept for it."""
        blocks_BL = self._blocks[np.array([place.block for place in places])]
        return self._targets.batch(blocks_BL, self._draw_seed, places)

    def _place(self, step: int, sample: int) -> Place:
        epoch, number = divmod(step * self.batch_size + sample, len(self._blocks))
        block = int(self._order(epoch)[number])
        if self._targets.num_patterns:  # whatever step and sample of the epoch it is
            pattern = epoch % self._targets.num_patterns
            return Place(block, pattern, self._blocks.number_of(block))
        return Place(block, step, sample)

    @lru_cache(maxsize=2)  # noqa: B019 - a source lives as long as its process
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return generator(self._order_seed, epoch).permutation(len(self._blocks))


Kind = TypeVar("Kind")


class Shared(Generic[Kind]):
    """Batches that several ranks share."""

    _batches: Sequence[Kind]

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._batches)

    def share(self, rank: int, num_ranks: int) -> Iterator[tuple[Kind, bool]]:
        """Yield the batches of one rank, and whether they count.

        All ranks get equally many, so that they can be asked together: one that has run out sees
        the first batch again, which then does not count.
        """
        for start in range(0, len(self._batches), num_ranks):
            counts = start + rank < len(self._batches)
            yield self._batches[start + rank if counts else 0], counts


class HeldoutBatches(Shared[Batch]):
    """The held-out blocks, always with the same targets: for every run over a corpus.

    After all of them comes what fills none, where a corpus has it: its text is scored to the end.
    num_bytes: of the text that all targets together are; None where they are but some of it.
    """

    def __init__(self, blocks: Blocks, targets: Targets, num_blocks: int, batch_size: int) -> None:
        count = min(num_blocks, len(blocks))
        seed = seed_for("heldout", "masks")
        self._batches = batches = list[Batch]()
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            places = [Place(number, HELDOUT, number) for number in numbers]
            batches.append(targets.batch(blocks[np.array(numbers)], seed, places))
        for rest in blocks.rest if count == len(blocks) else ():
            place = Place(len(blocks), HELDOUT, len(blocks))
            batches.append(targets.batch(np.array([rest]), seed, [place]))
            count += 1
        self.num_targets = sum(len(batch.labels_N) for batch in batches)
        self.num_bytes = blocks.num_bytes(count)
