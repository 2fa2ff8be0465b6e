"""Labelled texts, and ``batch(step)`` of them with little padding.

Legend: B texts, L positions (of the longest text of a batch), N = B targets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dwt_cli.base import atomic
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.tasks.batches import Shared
from dwt_cli.tasks.task import HELDOUT

_ABOUT = "texts.json"
_POOL = 64  # batches whose texts are sorted by length together: enough to waste little padding


@dataclass(frozen=True)
class TextBatch:
    """Texts as a `Classifier` reads them, and their labels; losses use it as they do a `Batch`.

    named: as `Classifier` has them. labels_N: as in `Texts`. places_B3: int64, a `Place` for each,
    a text being a block of one target.
    """

    named: Mapping[str, Tensor]
    labels_N: Tensor
    places_B3: Tensor
    documents_BL: ClassVar[None] = None
    ragged: ClassVar[bool] = False

    @property
    def inputs(self) -> tuple[Mapping[str, Tensor]]:
        """What a `Classifier` is called with, before what is wanted of it."""
        return (self.named,)

    @property
    def num_rows(self) -> list[int]:
        """The number of target rows of each text."""
        return [1] * len(self.labels_N)

    def to(self, device: torch.device) -> "TextBatch":
        """Return the batch on a device."""
        named = {name: tensor.to(device) for name, tensor in self.named.items()}
        return TextBatch(named, self.labels_N.to(device), self.places_B3.to(device))


@dataclass(frozen=True)
class Texts:
    """Tokenised texts and their labels.

    ids, segments: token ids and segment numbers of each text. labels: int64 classes, or fp32
    numbers. pad_id: what fills a batch up.
    """

    ids: Sequence[Sequence[int]]
    segments: Sequence[Sequence[int]]
    labels: NDArray[np.int64] | NDArray[np.float32]
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def tokenised(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[tuple[str, ...]],
        labels: NDArray[np.int64] | NDArray[np.float32],
        limit: int,
    ) -> tuple["Texts", int]:
        """Return texts or pairs with special tokens, and how many were cut to ``limit`` tokens."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        asked = {"return_attention_mask": False, "return_token_type_ids": True, "verbose": False}
        rows = tokenizer(*columns, **asked)
        long = [number for number, ids in enumerate(rows["input_ids"]) if len(ids) > limit]
        if long:
            chosen = [[column[number] for number in long] for column in columns]
            cut = tokenizer(*chosen, truncation=True, max_length=limit, **asked)
            for name, column in cut.items():
                for number, row in zip(long, column, strict=True):
                    rows[name][number] = row
        ids, segments = rows["input_ids"], rows["token_type_ids"]
        return cls(ids, segments, labels, tokenizer.pad_token_id), len(long)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.ids])

    def batch(
        self, numbers: NDArray[np.int64], step: int = HELDOUT, first: int | None = None
    ) -> TextBatch:
        """Return the texts of these numbers, padded to the longest of them.

        step, first: the step that drew them, and the number of the first in its batch; see `Place`.
        """
        ids, segments = ([each[number] for number in numbers] for each in (self.ids, self.segments))
        named = {
            "input_ids": _padded(ids, self.pad_id),
            "attention_mask": _padded([[1] * len(row) for row in ids], 0),
            "token_type_ids": _padded(segments, 0),
        }
        samples = numbers if first is None else np.arange(first, first + len(numbers))
        places_B3 = np.stack([numbers, np.full_like(numbers, step), samples], axis=1)
        labels_N = torch.from_numpy(self.labels[numbers])
        return TextBatch(named, labels_N, torch.from_numpy(places_B3))

    def save(self, file: Path) -> None:
        """Write them to a file of arrays, which `open` reads."""
        np.savez(
            file,
            ids=np.array([*chain.from_iterable(self.ids)], np.int32),
            segments=np.array([*chain.from_iterable(self.segments)], np.uint8),
            lengths=self.lengths,
            labels=self.labels,
            pad_id=self.pad_id,
        )

    @classmethod
    def open(cls, file: Path) -> "Texts":
        """Return the texts of a file of `save`."""
        with np.load(file) as kept:
            ends = [0, *kept["lengths"].cumsum().tolist()]
            ids, segments = kept["ids"].tolist(), kept["segments"].tolist()
            rows = [slice(*each) for each in pairwise(ends)]
            labels, pad_id = kept["labels"], int(kept["pad_id"])
        return cls([ids[row] for row in rows], [segments[row] for row in rows], labels, pad_id)

    def by_length(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of all texts in batches, those of like length together."""
        order = np.argsort(self.lengths, kind="stable")
        yield from np.split(order, range(batch_size, len(order), batch_size))


@dataclass(frozen=True)
class LabelledTexts:
    """A labelled set in tokens: a training part, and held-out parts by name.

    report: what is known about it.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Texts
    heldout: Mapping[str, Texts]
    report: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write all but the tokenizer into a folder, as `open` reads it."""
        for number, texts in enumerate((self.train, *self.heldout.values())):
            texts.save(folder / f"{number}.npz")
        atomic.write_json(folder / _ABOUT, {"parts": list(self.heldout), "report": self.report})

    @classmethod
    def open(cls, folder: Path, tokenizer: PreTrainedTokenizerBase) -> "LabelledTexts":
        """Return the set in a folder of `save`."""
        about = atomic.read_json(folder / _ABOUT)
        assert about is not None, "it is whole"
        parts = enumerate(about["parts"], 1)
        heldout = {name: Texts.open(folder / f"{number}.npz") for number, name in parts}
        return cls(tokenizer, Texts.open(folder / "0.npz"), heldout, about["report"])


class HeldoutTexts(Shared[TextBatch]):
    """Batches of all texts, those of like length together.

    numbers: of the texts of each batch.
    """

    def __init__(self, texts: Texts, batch_size: int) -> None:
        self.numbers = list(texts.by_length(batch_size))
        self._batches = [texts.batch(numbers) for numbers in self.numbers]
        self.labels = texts.labels


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)


class BucketedBatches:
    """Batches of texts of like length, for the loop: a pure function of (seed, purpose, step).

    An epoch is a permutation of the texts; of every 64 batches of it the texts are sorted by
    length and cut into batches, and all batches are shuffled. The few that fill no batch are left
    out, in each epoch others.
    """

    def __init__(self, texts: Texts, batch_size: int, seed: int, purpose: str) -> None:
        self.batch_size = min(batch_size, len(texts))
        self._texts, self._lengths = texts, texts.lengths
        self._seed = seed_for(seed, purpose, "order")

    @property
    def steps_per_epoch(self) -> float:
        return len(self._texts) // self.batch_size

    @property
    def tokens_per_step(self) -> int:
        return round(self.batch_size * self._lengths.mean())

    def num_targets(self, step: int) -> int:
        """Return the number of texts of a step's whole batch."""
        return self.batch_size

    @property
    def padding(self) -> float:
        """The share of the positions of an epoch that are padding, in 0..1."""
        lengths = self._lengths[self._epoch(0)]
        return 1 - float(lengths.sum() / (lengths.max(axis=1).sum() * self.batch_size))

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> TextBatch:
        """Return part ``part`` of ``num_parts`` equal, consecutive parts of a step's batch."""
        assert self.batch_size % num_parts == 0 and 0 <= part < num_parts
        epoch, place = divmod(step, int(self.steps_per_epoch))
        size = self.batch_size // num_parts
        first = part * size
        numbers = self._epoch(epoch)[place, first : first + size]
        return self._texts.batch(numbers, step, first)

    @lru_cache(maxsize=2)  # noqa: B019 - a source lives as long as its process
    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of the texts of every batch (batches, B)."""
        draw = generator(self._seed, epoch)
        num_texts = len(self._texts) // self.batch_size * self.batch_size
        order = draw.permutation(len(self._texts))[:num_texts]
        size = _POOL * self.batch_size
        pools = np.split(order, range(size, num_texts, size))
        bucketed = [pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools]
        return draw.permutation(np.concatenate(bucketed).reshape(-1, self.batch_size))
