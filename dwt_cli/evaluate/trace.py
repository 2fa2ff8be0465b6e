"""Which training blocks made a model say this rather than that: debiased, smoothed attribution.

Debias and Denoise Attribution (DDA, 2410.01285). At the weights theta the influence of a block z on
a query q is I = grad l(q) . grad l(z), with the identity in the place of the inverse Hessian: a
positive one says that a step on z lowers the query's loss. Debiased is I at a snapshot less beta
times I at the start, which takes out what the model said of its own accord; denoised is the mean
over snapshots. The debiasing is as others tell it; that the smoothing is a plain mean, and that
each snapshot's products are brought to one size before, is reconstructed: the paper's text could
not be read.

No gradient of a block is kept: the derivatives of all blocks' losses along the query's gradient are
one forward-mode pass over the text.

Legend: Q queries, S snapshots, B blocks, P places (a block with its masks), N target rows.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.nn import functional as F

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint
from dwt_cli.evaluate.queries import Query, Said
from dwt_cli.models.checkpoint import open_folder
from dwt_cli.models.options import provenance
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.options import Task
from dwt_cli.tasks.task import Batch, Place

KIND = "products"
_VERSION = 1
_PRODUCTS, _FACTS, _BEGUN = "products.npy", "facts.json", "begun"
_POSITIONS, _LOGITS = {"cpu": 1 << 12, "cuda": 1 << 16}, {"cpu": 1 << 22, "cuda": 1 << 28}
_SAVED_EVERY_S = 20.0  # of work: a stopped trace loses no more than that

Weights = dict[str, Tensor]


class Derivatives:
    """A model in fp32, whose blocks' losses are derived along a query's gradient."""

    def __init__(self, model: LanguageModel, device: torch.device) -> None:
        # the fused kernels of attention have no forward mode
        model.model.set_attn_implementation("eager")
        self._model, self._device = model.to(device).eval().requires_grad_(False), device
        self._weights: Weights = {name: p.detach() for name, p in model.named_parameters()}

    @property
    def vocab_size(self) -> int:
        return int(self._model.model.config.vocab_size)

    def gradient(self, query: Query) -> tuple[float, Weights]:
        """Return a query's loss in nats and its gradient by the weights' names."""

        def loss(weights: Weights) -> tuple[Tensor, Tensor]:
            value = self._cross_entropy(weights, query.said)
            if query.other is not None:
                value = value - self._cross_entropy(weights, query.other)
            return value, value.detach()

        gradient, value = grad(loss, has_aux=True)(self._weights)
        return float(value), gradient

    def along(self, direction: Weights, batch: Batch) -> Tensor:
        """Return the derivatives (B,) of the blocks' mean losses along a direction."""

        def losses(weights: Weights) -> Tensor:
            want = Want(ragged=batch.ragged, documents_BL=batch.documents_BL)
            output = functional_call(self._model, weights, (*batch.inputs, want))
            losses_N = F.cross_entropy(output.logits_NV, batch.labels_N, reduction="none")
            return losses_N.view(len(batch.ids_BL), -1).mean(1)

        derivatives: Tensor = jvp(losses, (self._weights,), (direction,))[1]
        return derivatives

    def _cross_entropy(self, weights: Weights, said: Said) -> Tensor:
        ids_L, rows_N, labels_N = (torch.tensor(each, device=self._device) for each in said)
        output = functional_call(self._model, weights, (ids_L[None], rows_N))
        return F.cross_entropy(output.logits_NV, labels_N, reduction="sum")


def places_of(batches: TrainBatches, steps: Iterable[int], most: int) -> list[Place]:
    """Return the first places, at most so many of each block, at which a training reads it.

    steps: whose text it reads. The places of a block stand together, blocks in order.
    """
    found: dict[int, dict[Place, None]] = {}
    for place in chain.from_iterable(map(batches.places, steps)):
        of_block = found.setdefault(place.block, {})
        if len(of_block) < most:
            of_block[place] = None
    return [place for block in sorted(found) for place in found[block]]


@dataclass(frozen=True)
class Text:
    """The training text as a model has read it, at some places.

    num_visits: at most so many of each block. identity: of the batches and the places.
    """

    task: Task
    batches: TrainBatches
    places: Sequence[Place]
    num_visits: int
    identity: str

    @cached_property
    def blocks_P(self) -> NDArray[np.int64]:
        """The block of each place."""
        return np.array([place.block for place in self.places])

    @cached_property
    def blocks_B(self) -> NDArray[np.int64]:
        """The blocks, in order."""
        return np.unique(self.blocks_P)

    def by_block(self, values_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean (B,) over each block's places."""
        numbers_P = np.searchsorted(self.blocks_B, self.blocks_P)
        return np.bincount(numbers_P, values_P) / np.bincount(numbers_P)


Advance = Callable[[int, float | None], None]
"""Called with places that are done, and the seconds they took; None: they were kept."""


@dataclass(frozen=True)
class Products:
    """The products of the gradients of queries and blocks, kept by what determines them."""

    text: Text
    cache: Cache
    device: torch.device
    advance: Advance

    def at(
        self, snapshot: Path, queries: Sequence[Query]
    ) -> tuple[NDArray[np.float64], list[float]]:
        """Return those (Q, B) of a snapshot's weights, and the queries' losses in nats."""
        model, found, losses = provenance(str(snapshot)), [], []
        opened: list[Derivatives] = []  # once, if anything has to be computed

        for query in queries:

            def make(folder: Path, query: Query = query) -> None:
                if not opened:
                    weights = open_folder(snapshot, self.text.task.head)
                    opened.append(Derivatives(LanguageModel(weights, torch.float32), self.device))
                self._make(folder, opened[0], query)

            identity = fingerprint(
                KIND, _VERSION, model, self.text.identity, [query.said, query.other]
            )
            kept = atomic.is_sealed(self.cache.place(KIND, identity))
            place = self.cache.get(KIND, identity, make, {"options": {"name": query.filled}})
            found.append(self.text.by_block(np.load(place / _PRODUCTS)))
            losses.append(json.loads((place / _FACTS).read_text(encoding="utf-8"))["loss"])
            if kept:
                self.advance(len(self.text.places), None)
        return np.stack(found), losses

    def _make(self, folder: Path, model: Derivatives, query: Query) -> None:
        """Write the products of all places; an earlier start's are not computed again."""
        loss, direction = model.gradient(query)
        places, size = self.text.places, self._places_at_once(model.vocab_size)
        begun = folder / _BEGUN
        found = np.frombuffer(atomic.read_summed(begun) or b"").tolist()
        assert len(found) <= len(places), "they are those of these places"
        self.advance(len(found), None)
        saved = time.monotonic()
        while len(found) < len(places):
            started = time.perf_counter()
            chosen = places[len(found) : len(found) + size]
            batch = self.text.batches.of(chosen).to(self.device)
            found += model.along(direction, batch).double().tolist()
            self.advance(len(chosen), time.perf_counter() - started)
            if time.monotonic() - saved > _SAVED_EVERY_S:
                atomic.write_summed(begun, np.array(found).tobytes())
                saved = time.monotonic()
        np.save(folder / _PRODUCTS, np.array(found))
        atomic.write_json(folder / _FACTS, {"loss": loss})
        begun.unlink(missing_ok=True)

    def _places_at_once(self, vocab_size: int) -> int:
        length = self.text.batches.block_length
        num_logits = self.text.task.num_targets(length) * vocab_size
        of_positions = _POSITIONS[self.device.type] // length
        return max(1, min(of_positions, _LOGITS[self.device.type] // num_logits))


def debiased(
    products_QSB: NDArray[np.float64], beta: float, raw: bool = False
) -> NDArray[np.float64]:
    """Return scores (Q, B): the mean over the snapshots after the first, less beta times that.

    raw: of the products as they are; else of each snapshot's divided by their root mean square over
    the blocks, for where gradients are large, as at a start, all others would drown.
    """
    size_QS1 = np.sqrt(np.square(products_QSB).mean(-1, keepdims=True))
    each_QSB = products_QSB / (1.0 if raw else np.where(size_QS1 > 0, size_QS1, 1.0))
    scores_QB: NDArray[np.float64] = each_QSB[:, 1:].mean(1) - beta * each_QSB[:, 0]
    return scores_QB


def bm25(
    texts: Sequence[str], queries: Sequence[str], k1: float = 1.5, b: float = 0.75
) -> NDArray[np.float64]:
    """Return BM25 of each query and text (Q, B), by words in lower case.

    Robertson and Zaragoza 2009 ("The Probabilistic Relevance Framework"), eq. 3.15, with 1 added
    inside of the logarithm so that no word counts against a text.
    """
    words = CountVectorizer(token_pattern=r"\w+")
    counts_BW = words.fit_transform(texts).astype(np.float64)
    num_with_W = np.bincount(counts_BW.indices, minlength=counts_BW.shape[1])
    weight_W = np.log1p((len(texts) - num_with_W + 0.5) / (num_with_W + 0.5))
    length_B = counts_BW.sum(1).A1
    longer_B = k1 * (1 - b + b * length_B / length_B.mean())
    of_row = np.repeat(longer_B, np.diff(counts_BW.indptr))
    counts_BW.data *= (k1 + 1) / (counts_BW.data + of_row)
    asked_QW = words.transform(queries).multiply(weight_W)
    scores_QB: NDArray[np.float64] = (asked_QW @ counts_BW.T).toarray()
    return scores_QB
