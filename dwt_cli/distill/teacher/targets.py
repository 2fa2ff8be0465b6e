"""The forms in which a teacher answers on the target rows of a batch.

Legend: N target rows, C some of them, V vocabulary, K tokens that are kept, D width, P rows of a
head's matrix (the vocabulary, and what fills it up).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ALL_ROWS = slice(None)


@dataclass(frozen=True)
class SoftTargets(ABC):
    """The teacher's distributions over the vocabulary; each subclass is a form of them."""

    @abstractmethod
    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return the logits (C, V) of these rows, in any float type."""


@dataclass(frozen=True)
class DenseLogits(SoftTargets):
    """A logit for every token."""

    logits_NV: Tensor

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        return self.logits_NV[rows]


@dataclass(frozen=True)
class CalledHead(SoftTargets):
    """The states that enter a model's head, and the head: logits are there when asked for."""

    states_ND: Tensor
    head: Callable[[Tensor], Tensor]
    temperature: float = 1.0

    @torch.no_grad()
    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        logits_CV = self.head(self.states_ND[rows])
        return logits_CV if self.temperature == 1 else logits_CV / self.temperature


@dataclass(frozen=True)
class SparseRows(SoftTargets):
    """The log-probabilities of some tokens of each row; the others share the rest evenly.

    ids_NK: int64, distinct within a row. log_probabilities_NK: any float type.
    """

    ids_NK: Tensor
    log_probabilities_NK: Tensor
    vocab_size: int

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return log-probabilities (C, V), fp32."""
        kept_CK = self.log_probabilities_NK[rows].float()
        rest_C1 = 1 - kept_CK.exp().sum(-1, keepdim=True)  # rounding may bring it below 0
        num_others = max(1, self.vocab_size - kept_CK.shape[1])
        other_C1 = (rest_C1.clamp_min(1e-30) / num_others).log()
        return other_C1.repeat(1, self.vocab_size).scatter(1, self.ids_NK[rows], kept_CK)


class OutputHead(NamedTuple):
    """The last step of a model: cap * tanh((states W^T + bias) / cap), of the valid ids.

    bias_P, cap: None for none. num_valid: the ids below it are tokens; None: all are.
    """

    weight_PD: Tensor
    bias_P: Tensor | None = None
    cap: float | None = None
    num_valid: int | None = None

    def logits(self, states_CD: Tensor) -> Tensor:
        """Return logits (C, V)."""
        bias_V = None if self.bias_P is None else self.bias_P[: self.num_valid]
        logits_CV = F.linear(states_CD, self.weight_PD[: self.num_valid], bias_V)
        return logits_CV if self.cap is None else self.cap * (logits_CV / self.cap).tanh()


@dataclass(frozen=True)
class HeadStates(SoftTargets):
    """The states that enter the head's last step, and that step."""

    states_ND: Tensor
    head: OutputHead

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        return self.head.logits(self.states_ND[rows])
