"""Blocks that the teacher writes, and what they are written by. Imports no torch at the top.

After teacher guided training (TGT, arXiv 2208.06825), whose method was not checked against the
paper's text: encoder, decoder and labeller are one language model here. Of a share of a batch's
blocks it reads the target rows, moves its states there or not, and writes the tokens that its head
then says; the new blocks get targets anew, on which the teacher alone is listened to.

Legend: T target rows of one block, V vocabulary, D width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from omegaconf import II

from dwt_cli.base.options import Range, at_least, between

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dwt_cli.distill.teacher.targets import HeadStates, SoftTargets


class Rows(NamedTuple):
    """The target rows of one block that is to be written.

    teacher: its targets there. draws: the sample's own random numbers. allowed_V: bool, the tokens
    that may be written. student_TV: the student's logits, where they are asked for.
    """

    teacher: SoftTargets
    draws: np.random.Generator
    allowed_V: Tensor
    student_TV: Tensor | None = None


@dataclass
class Explore:
    """The text as it is: nobody writes."""

    @property
    def writes(self) -> Writes | None:
        """The options of a teacher that writes; None: the text stays as it is."""
        return None


@dataclass
class Writes(Explore):
    """A teacher that writes a share of each batch.

    share: of a batch's blocks, up to the whole block. ratio: of a decoder's tokens that are
    written; of a masked task all targets are. moves: whether the states before the head are
    moved, so that it has to be known. asks_student: whether the student's answer says where to.
    """

    moves: ClassVar[bool] = False
    asks_student: ClassVar[bool] = False

    share: float = field(default=0.25, metadata={"range": Range(0.0, 0.9, beyond=True)})
    ratio: float = between(0.01, 1.0, 0.15)
    batch_size: int = at_least(1, II("train.batch_size"), identity=False)

    @property
    def writes(self) -> Writes:
        return self

    def is_written(self, sample: int) -> bool:
        """Return whether a sample of a batch is: they lie evenly, so that parts have equal shares.

        A function of the sample's number alone, so that any split of a batch agrees.
        """
        return int((sample + 1) * self.share) > int(sample * self.share)

    @property
    def exact_share(self) -> float:
        """The share of a whole batch's blocks that are written."""
        return sum(map(self.is_written, range(self.batch_size))) / self.batch_size

    @abstractmethod
    def read(self, rows: Rows) -> Tensor:
        """Return the tokens (T,), int64, of one block's rows, none that is not allowed."""

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for a share that leaves no whole block."""
        if not self.exact_share:
            yield (
                f"{setting}.share={self.share} of train.batch_size={self.batch_size}: that is no "
                f"whole block; set it to {math.ceil(1e6 / self.batch_size) / 1e6:g} or more"
            )


@dataclass
class Sample(Writes):
    """Tokens drawn from what the teacher expects in each row."""

    def read(self, rows: Rows) -> Tensor:
        import torch

        logits_TV = rows.teacher.dense().double().masked_fill(~rows.allowed_V, -torch.inf)
        sums_TV = logits_TV.softmax(-1).cumsum(-1)
        uniforms_T1 = torch.from_numpy(rows.draws.random((len(sums_TV), 1))).to(sums_TV.device)
        found_T = torch.searchsorted(sums_TV, uniforms_T1 * sums_TV[:, -1:], right=True)[:, 0]
        last = int(rows.allowed_V.nonzero().max())  # a product that is rounded up to the sum
        return found_T.clamp_max(last)


@dataclass
class Perturb(Writes):
    """The likeliest tokens of states with noise: h + sigma * rms(h) * nu, nu standard normal."""

    moves: ClassVar[bool] = True

    sigma: float = at_least(0, 0.5)

    def read(self, rows: Rows) -> Tensor:
        import torch

        head = _head(rows.teacher)
        noise_TD = torch.from_numpy(rows.draws.standard_normal(head.states_ND.shape))
        return _likeliest(_moved(head, self.sigma, noise_TD.to(head.states_ND)), rows.allowed_V)


@dataclass
class Ascend(Writes):
    """The likeliest tokens of states that went towards where teacher and student disagree.

    h + step * rms(h) * g / rms(g), where g is the gradient of KL(softmax(head(h)) || student) in h,
    through the head alone; it stops at the tokens.
    """

    moves: ClassVar[bool] = True
    asks_student: ClassVar[bool] = True

    step: float = at_least(0, 0.5)

    def read(self, rows: Rows) -> Tensor:
        assert rows.student_TV is not None, "it was asked for"
        head = _head(rows.teacher)
        way_TD = disagreement(head, rows.student_TV)
        way_TD = way_TD / _rms(way_TD).clamp_min(1e-30)
        return _likeliest(_moved(head, self.step, way_TD), rows.allowed_V)


EXPLORES: dict[str, type[Explore]] = {
    "none": Explore,
    "sample": Sample,
    "perturb": Perturb,
    "ascend": Ascend,
}


def disagreement(head: HeadStates, student_TV: Tensor) -> Tensor:
    """Return the gradient in the states (T, D) of KL(softmax(head(h)) || softmax(student))."""
    import torch
    from torch.nn import functional as F

    with torch.enable_grad():
        states_TD = head.states_ND.detach().to(student_TV.dtype).requires_grad_()
        teacher_TV = replace(head, states_ND=states_TD).dense().log_softmax(-1)
        kl = F.kl_div(student_TV.log_softmax(-1), teacher_TV, reduction="sum", log_target=True)
        return torch.autograd.grad(kl, states_TD)[0]


def _moved(head: HeadStates, size: float, way_TD: Tensor) -> HeadStates:
    states_TD = head.states_ND
    return replace(head, states_ND=states_TD + size * _rms(states_TD) * way_TD.to(states_TD))


def _rms(states_TD: Tensor) -> Tensor:
    return states_TD.square().mean(-1, keepdim=True).sqrt()


def _likeliest(head: HeadStates, allowed_V: Tensor) -> Tensor:
    return head.dense().float().masked_fill(~allowed_V, float("-inf")).argmax(-1)


def _head(targets: SoftTargets) -> HeadStates:
    from dwt_cli.distill.teacher.targets import HeadStates

    assert isinstance(targets, HeadStates), "a family whose head is known"
    return targets
