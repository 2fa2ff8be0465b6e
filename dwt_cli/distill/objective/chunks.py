"""Objectives between models with other tokens, of text between places where tokens of both end.

Imports no torch. Losses are sums. Legend: N target rows of the student, V its vocabulary, W the
teacher's, C chunks of text, A places where tokens of both end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from dwt_cli.base.options import above
from dwt_cli.distill.objective.base import Objective

if TYPE_CHECKING:
    from torch import Tensor


class Chunks(NamedTuple):
    """Likelihoods of a causal teacher with tokens of its own, of text between places.

    At such a place a token of the student and one of the teacher end together. chunks_N: int64, the
    chunk in which each target row's label is; C for those in none. log_p_C: the teacher's
    log-likelihoods of the chunks, fp32. rows_A: int64, the target rows at places, and sorted_AW:
    the teacher's probabilities there, the largest first, fp32; both empty unless asked for.
    """

    chunks_N: Tensor
    log_p_C: Tensor
    rows_A: Tensor
    sorted_AW: Tensor


@dataclass
class ChunkObjective(Objective, ABC):
    """Likelihoods of text, which only causal models have.

    at_places: whether the teacher's distributions at the places are compared. num_tables: of the
    student's (N, V), in fp32, that it has at once, their gradients among them.
    """

    across: ClassVar[bool] = True
    at_places: ClassVar[bool] = False
    num_tables: ClassVar[int] = 4

    @abstractmethod
    def compare(self, student_NV: Tensor, labels_N: Tensor, teacher: Chunks) -> Tensor:
        """Return the sum over chunks or places, a scalar with a gradient to the logits."""


def over_chunks(objectives: Mapping[str, Objective]) -> dict[str, ChunkObjective]:
    """Return those that compare likelihoods of text, by name."""
    return {name: each for name, each in objectives.items() if isinstance(each, ChunkObjective)}


@dataclass
class Alm(ChunkObjective):
    """Approximate likelihood matching (arXiv 2503.20083): KL of "this text, or another".

    With p = exp(log-likelihood / temperature) of a chunk, the sum over chunks of
    p_T log(p_T / p_S) + (1 - p_T) log((1 - p_T) / (1 - p_S)), times the temperature.

    Reconstructed from summaries of the paper and its authors' published code, not read in full.
    The factor is ours: without it the gradient falls with the temperature. Their correction for
    texts that a tokenizer cannot go on with, and their choice among chunks, are left out.
    """

    temperature: float = above(0, 100.0, hint="the authors use 100")

    def compare(self, student_NV: Tensor, labels_N: Tensor, teacher: Chunks) -> Tensor:
        import torch

        scores_NV = student_NV.float()
        log_p_N = scores_NV.gather(1, labels_N[:, None]).squeeze(1) - scores_NV.logsumexp(-1)
        sums = scores_NV.new_zeros(len(teacher.log_p_C) + 1)  # the last is of rows in no chunk
        ours_C = sums.index_add(0, teacher.chunks_N, log_p_N)[:-1]
        tau, most = self.temperature, -1e-6  # no text is certain
        t_C, s_C = ((each / tau).clamp_max(most) for each in (teacher.log_p_C, ours_C))
        another_t_C, another_s_C = (torch.log(-torch.expm1(each)) for each in (t_C, s_C))
        same_C = t_C.exp() * (t_C - s_C)
        return tau * (same_C - torch.expm1(t_C) * (another_t_C - another_s_C)).sum()


@dataclass
class Uld(ChunkObjective):
    """Universal logit distillation (arXiv 2402.12030): sorted probabilities, a weak control.

    The sum over places of sum_i |p_(i) - q_(i)|, the i-th largest of each, zero beyond a smaller
    vocabulary; which token has it is not looked at. Rows are compared where tokens of both end; the
    paper, whose formula is known here from summaries, compares them by their number in the text.
    """

    at_places: ClassVar[bool] = True
    num_tables: ClassVar[int] = 8

    def compare(self, student_NV: Tensor, labels_N: Tensor, teacher: Chunks) -> Tensor:
        from torch.nn import functional as F

        p_AV = student_NV[teacher.rows_A].float().softmax(-1).sort(-1, descending=True).values
        lacking = teacher.sorted_AW.shape[1] - p_AV.shape[1]
        q_AW = F.pad(teacher.sorted_AW, (0, max(0, -lacking)))
        return (F.pad(p_AV, (0, max(0, lacking))) - q_AW).abs().sum()


CHUNK_OBJECTIVES: dict[str, type[ChunkObjective]] = {"alm": Alm, "uld": Uld}
