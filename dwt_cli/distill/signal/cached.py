"""A teacher that is asked once: what is cached of its answers, and the signal that gives it back.

Legend: N target rows of a batch, T those of a block, C of a tile, V vocabulary, U uniforms.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.signal.coding import CachedRows, Layout
from dwt_cli.distill.signal.options import Cached
from dwt_cli.distill.signal.store import CachedBlock
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    Request,
    SoftTargets,
    SparseRows,
    TeacherSignal,
)
from dwt_cli.tasks.batches import Beside
from dwt_cli.tasks.task import Batch

_TILE_BYTES = 1 << 26  # of a table of rows in fp64; there are a few at once


class CachedSignal(TeacherSignal):
    """Rows that were asked for before, and come with the batch.

    beside: returns them, for `TrainBatches`. account: what they took.
    """

    def __init__(self, vocab_size: int, beside: Beside, account: Mapping[str, Any]) -> None:
        self._vocab_size, self.beside, self.account = vocab_size, beside, account

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert not request.features, "of what is cached there are no features"
        if not batch.beside:
            raise UserError(
                "signal: the teacher was not asked for the rows of this step, since its weight "
                "was to be 0 there; run.fresh=true begins anew"
            )
        return Answer(SparseRows(EntryRows(*batch.beside), self._vocab_size))


def layout_of(cached: Cached, vocab_size: int) -> Layout:
    """Return the layout of what an estimator keeps."""
    return Layout(vocab_size, cached.num_entries, cached.num_levels, cached.is_full)


@torch.no_grad()
def asked(
    signal: TeacherSignal, batch: Batch, keys: list[int], cached: Cached, layout: Layout, tau: float
) -> Iterator[CachedBlock]:
    """Yield what is cached of a teacher's answer to a batch, block by block.

    batch: where the teacher is. keys: of its blocks, which determine what is drawn. tau: the
    objective's temperature, at which the rows are cached.
    """
    assert not signal.parts, "what is trained beside the student answers otherwise in each step"
    length = batch.ids_BL.shape[1]
    sizes = torch.bincount(batch.rows_N // length, minlength=len(keys)).tolist()
    uniforms_NU = np.concatenate(
        [
            generator(seed_for(cached.seed, "signal"), key >> 32, key & 0xFFFFFFFF).random(
                (size, cached.num_uniforms)
            )
            for key, size in zip(keys, sizes, strict=True)
        ]
    )
    rows = _cached(signal(batch).targets, batch.labels_N, uniforms_NU, cached, layout, tau)
    ends = np.cumsum(sizes)
    for key, size, end in zip(keys, sizes, ends, strict=True):
        block = CachedRows(*(column[end - size : end] for column in rows))
        yield CachedBlock(key, size, layout.encode(block))


def _cached(
    targets: SoftTargets,
    labels_N: Tensor,
    uniforms_NU: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    cached: Cached,
    layout: Layout,
    tau: float,
) -> CachedRows:
    """Return the rows of some targets, tile by tile, in fp64 wherever the teacher is."""
    size, tiles = max(1, _TILE_BYTES // (8 * layout.vocab_size)), []
    for start in range(0, len(labels_N), size):
        part = slice(start, start + size)
        logits_CV = targets.dense(part).double()
        plain_CV = logits_CV.log_softmax(-1)
        labels_C = plain_CV.gather(1, labels_N[part, None])[:, 0]
        tops_C = plain_CV.amax(-1)
        t_CV = plain_CV.exp() if tau == 1 else (logits_CV / tau).softmax(-1)
        uniforms_CU = torch.from_numpy(uniforms_NU[part]).to(t_CV.device)
        entries, levels_CK = cached.draw(t_CV, uniforms_CU)
        of_entries = (entries.ids_NK, levels_CK, entries.num_head_N, entries.num_N)
        entropies_C = -t_CV.xlogy(t_CV).sum(-1)
        columns = (*of_entries, entropies_C, labels_C, tops_C, labels_C >= tops_C)
        tiles.append([column.cpu().numpy() for column in columns])
    return CachedRows(*(np.concatenate(column) for column in zip(*tiles, strict=True)))
