"""The forms in which a teacher's distributions over the vocabulary come.

Legend: N target rows of a batch, C some of them, V vocabulary, K tokens that are kept, M
centroids, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.models.wrapper import OutputLayer

ALL_ROWS = slice(None)


@dataclass(frozen=True)
class SoftTargets(ABC):
    """The teacher's distributions over the vocabulary; each subclass is a form of them.

    are_there: false of a teacher whose vocabulary is another.
    """

    are_there: ClassVar[bool] = True

    @property
    @abstractmethod
    def parts(self) -> tuple[Callable[..., "SoftTargets"], list[Tensor | None]]:
        """Return what makes the targets of their tensors, and those."""

    def detached(self) -> "SoftTargets":
        """Return them without a gradient."""
        form, parts = self.parts
        return form(*(None if part is None else part.detach() for part in parts))

    def rows(self, rows: slice) -> "SoftTargets":
        """Return those of some rows."""
        form, parts = self.parts
        return form(*(None if part is None else part[rows] for part in parts))

    @abstractmethod
    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return the logits (C, V) of these rows, in any float type."""

    @property
    def centroids(self) -> Tensor | None:
        """Distributions (M, V) that rows of entries have shares of; None: there are none."""
        return None

    def tile(self, rows: slice) -> Tensor | EntryRows:
        """Return these rows as they are compared: as logits, or as the entries that they are."""
        return self.dense(rows)


@dataclass(frozen=True)
class DenseLogits(SoftTargets):
    """A logit for every token."""

    logits_NV: Tensor

    @property
    def parts(self) -> tuple[Callable[..., SoftTargets], list[Tensor | None]]:
        return DenseLogits, [self.logits_NV]

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        return self.logits_NV[rows]


@dataclass(frozen=True)
class HeadStates(SoftTargets):
    """The states that enter a head's last matrix, and the matrix, bias and cap.

    They make logits when asked for some; cap: see `OutputLayer`.
    """

    states_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    cap: float | None = None
    temperature: float = 1.0

    @property
    def parts(self) -> tuple[Callable[..., SoftTargets], list[Tensor | None]]:
        form = partial(HeadStates, cap=self.cap, temperature=self.temperature)
        return form, [self.states_ND, self.weight_VD, self.bias_V]

    def rows(self, rows: slice) -> SoftTargets:
        return replace(self, states_ND=self.states_ND[rows])

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        logits_CV = OutputLayer(self.weight_VD, self.bias_V, self.cap)(self.states_ND[rows])
        return logits_CV if self.temperature == 1 else logits_CV / self.temperature


@dataclass(frozen=True)
class SparseRows(SoftTargets):
    """Some entries of each row; in logits the other tokens share evenly what they leave."""

    entries: EntryRows
    vocab_size: int
    centroids_MV: Tensor | None = None

    @property
    def parts(self) -> tuple[Callable[..., SoftTargets], list[Tensor | None]]:
        make = partial(_sparse_rows, vocab_size=self.vocab_size)
        return make, [self.centroids_MV, *self.entries]

    @property
    def centroids(self) -> Tensor | None:
        return self.centroids_MV

    def rows(self, rows: slice) -> SoftTargets:
        return replace(self, entries=self.entries.part(rows))

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return log-probabilities (C, V), fp32; of rows without centroids."""
        assert self.centroids_MV is None, "entries that correct something are no probabilities"
        ids_CK, kept_CK = self.entries.ids_CK[rows], self.entries.weights_CK[rows]
        table_CV = kept_CK.new_zeros(len(kept_CK), self.vocab_size)
        table_CV.scatter_add_(1, ids_CK, kept_CK)
        rest_C1 = (1 - kept_CK.sum(-1, keepdim=True)).clamp_min(1e-30)  # rounding
        num_others_C1 = (table_CV == 0).sum(-1, keepdim=True).clamp_min(1)
        return torch.where(table_CV == 0, rest_C1 / num_others_C1, table_CV).log()

    def tile(self, rows: slice) -> EntryRows:
        return self.entries.part(rows)


def _sparse_rows(centroids_MV: Tensor | None, *entries: Tensor, vocab_size: int) -> SparseRows:
    return SparseRows(EntryRows(*entries), vocab_size, centroids_MV)


def answer_of(
    states_ND: Tensor, head: OutputLayer | None, temperature: float = 1.0, copy: bool = False
) -> SoftTargets:
    """Return the answer of a model with these states and this head; None: they are its logits.

    temperature: divides its logits. copy: the head's weights will be gone.
    """
    if head is None:
        return DenseLogits(states_ND if temperature == 1 else states_ND / temperature)
    dtype = head.dtype or states_ND.dtype
    own = head.to(dtype, copy=copy)
    return HeadStates(states_ND.to(dtype), *own[:3], temperature=temperature)
