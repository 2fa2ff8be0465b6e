"""A teacher over more, or fewer, rows than the student has, in one numbering of tokens.

Rows of an embedding are often filled up to a round number, and a teacher may know tokens that the
student's text has not. Its probabilities of those are taken away, and the rest sums to one.

Legend: N target rows, V the student's rows, P the teacher's, K tokens that both have.
"""

import torch

from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    DenseLogits,
    Request,
    TeacherSignal,
)
from dwt_cli.tasks.task import Batch

_BELOW = 20.0  # nats below the unlikeliest token: as good as never, and every divergence is finite


class FittedSignal(TeacherSignal):
    """A signal over the student's rows, of one over the teacher's.

    num_tokens: the ids that both have; no other has a probability. vocab_size: the student's rows.
    """

    def __init__(self, signal: TeacherSignal, num_tokens: int, vocab_size: int) -> None:
        assert num_tokens <= vocab_size
        self.model, self._signal = signal.model, signal
        self._num_tokens, self._vocab_size = num_tokens, vocab_size
        self._removed, self._num_rows = 0.0, 0

    @property
    def removed(self) -> float:
        """The mean mass that was taken away, over the rows that were asked for so far, in 0..1."""
        return self._removed / max(1, self._num_rows)

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        answer = self._signal(batch, request)
        logits_NP = answer.targets.dense()
        kept_NK = logits_NP[:, : self._num_tokens]
        log_z_N, log_kept_N = (part.float().logsumexp(-1) for part in (logits_NP, kept_NK))
        self._removed += float((1 - (log_kept_N - log_z_N).exp()).sum())
        self._num_rows += len(logits_NP)
        lowest_N1 = kept_NK.amin(-1, keepdim=True) - _BELOW
        num_others = self._vocab_size - self._num_tokens
        fitted_NV = torch.cat([kept_NK, lowest_N1.expand(-1, num_others)], -1)
        return Answer(DenseLogits(fitted_NV), answer.features)

    def release(self) -> None:
        self._signal.release()
        self.model = None
