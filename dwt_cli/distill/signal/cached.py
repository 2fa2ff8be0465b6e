"""A teacher that is asked once: what is cached of its answers, and the signal that gives it back.

Legend: N target rows of a batch, T those of a block, C of a tile, V vocabulary, U uniforms.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.data.pack import Blocks
from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.signal.coding import MOST_SHARES, CachedRows, Layout
from dwt_cli.distill.signal.estimators import centroids, nearest
from dwt_cli.distill.signal.options import Cached
from dwt_cli.distill.signal.store import CachedBlock
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, Request, TeacherSignal
from dwt_cli.distill.teacher.targets import SoftTargets, SparseRows
from dwt_cli.tasks.batches import Beside
from dwt_cli.tasks.task import Batch, Place, Targets

_TILE_BYTES = {"cpu": 1 << 21, "cuda": 1 << 26}  # of rows in fp64; on a CPU they stay in the cache


class CachedSignal(TeacherSignal):
    """Rows that were asked for before, and come with the batch.

    beside: returns them, for `TrainBatches`. account: what they took. centroids_MV: that they have
    shares of; None: none.
    """

    def __init__(
        self,
        vocab_size: int,
        beside: Beside,
        account: Mapping[str, Any],
        centroids_MV: Tensor | None = None,
    ) -> None:
        self._vocab_size, self.beside, self.account = vocab_size, beside, account
        self._centroids_MV = centroids_MV

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert not request.features, "of what is cached there are no features"
        if not batch.beside:
            raise UserError(
                "signal: the teacher was not asked for the rows of this step, since its weight "
                "was to be 0 there; run.fresh=true begins anew"
            )
        if self._centroids_MV is not None:
            self._centroids_MV = self._centroids_MV.to(batch.labels_N.device)
        rows = EntryRows(*batch.beside)
        return Answer(SparseRows(rows, self._vocab_size, self._centroids_MV))


def layout_of(cached: Cached, vocab_size: int) -> Layout:
    """Return the layout of what an estimator keeps."""
    return Layout(
        vocab_size, cached.num_entries, cached.num_levels, cached.is_full, cached.num_shared
    )


def spread_over(text: Blocks, targets: Targets, count: int, size: int) -> Iterator[Batch]:
    """Yield ``count`` blocks that are spread over a text, ``size`` at once, to find centroids."""
    chosen = np.linspace(0, len(text) - 1, count).astype(np.int64)
    for part in np.split(chosen, range(size, count, size)):
        places = [Place(int(n), 0, int(n)) for n in part]
        yield targets.batch(text[part], seed_for("centroids"), places)


@torch.no_grad()
def centroids_of(
    signal: TeacherSignal, batches: Iterable[Batch], cached: Cached, tau: float
) -> NDArray[np.float16]:
    """Return the centroids (M, V) of a teacher's rows, as they are written down."""
    rows = [(signal(batch).targets.dense().float() / tau).softmax(-1) for batch in batches]
    t_NV = torch.cat(rows)
    rows.clear()  # of such tables there is room for two
    return centroids(t_NV, cached.num_shared).half().cpu().numpy()


def as_distributions(written_MV: NDArray[np.float16]) -> Tensor:
    """Return centroids in fp32, whose sums are one again."""
    found_MV = torch.from_numpy(written_MV).float()
    return found_MV / found_MV.sum(-1, keepdim=True)


@torch.no_grad()
def asked(
    signal: TeacherSignal,
    batch: Batch,
    keys: list[int],
    cached: Cached,
    layout: Layout,
    tau: float,
    centroids_MV: Tensor | None = None,
) -> Iterator[CachedBlock]:
    """Yield what is cached of a teacher's answer to a batch, block by block.

    batch: where the teacher is. keys: of its blocks, which determine what is drawn. tau: the
    objective's temperature, at which the rows are cached. centroids_MV: if the estimator has some.
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
    drawn = (uniforms_NU, cached, layout, tau, centroids_MV)
    rows = _cached(signal(batch).targets, batch.labels_N, *drawn)
    ends = np.cumsum(sizes)
    for key, size, end in zip(keys, sizes, ends, strict=True):
        block = CachedRows(*(column[end - size : end] for column in rows))
        yield CachedBlock(key, size, layout.encode(block))


def _cached(
    targets: SoftTargets,
    labels_N: Tensor,
    uniforms_NU: NDArray[np.float64],
    cached: Cached,
    layout: Layout,
    tau: float,
    centroids_MV: Tensor | None,
) -> CachedRows:
    """Return the rows of some targets, tile by tile, in fp64 wherever the teacher is."""
    size = _TILE_BYTES[labels_N.device.type] // (8 * layout.vocab_size)
    size = max(1, cached.num_shared, size)  # of fewer rows the product with centroids is slow
    tiles = []
    if centroids_MV is not None:
        centroids_MV = centroids_MV.to(labels_N.device).double()
        roots_MV = centroids_MV.float().sqrt()
    for start in range(0, len(labels_N), size):
        part = slice(start, start + size)
        logits_CV = targets.dense(part).double()
        plain_CV = logits_CV.log_softmax(-1)
        labels_C = plain_CV.gather(1, labels_N[part, None])[:, 0]
        tops_C = plain_CV.amax(-1)
        logs_CV = plain_CV if tau == 1 else (logits_CV / tau).log_softmax(-1)
        t_CV = logs_CV.exp()
        entropies_C = -torch.linalg.vecdot(t_CV, logs_CV.clamp_min_(-1e4))
        if not entropies_C.isfinite().all():
            raise UserError(
                "signal: of some text the teacher answers what is no number, and none of that is "
                "kept: set train.precision=fp32, or choose another teacher"
            )
        uniforms_CU = torch.from_numpy(uniforms_NU[part]).to(t_CV.device)
        nearest_C = shares_C = torch.zeros_like(labels_C, dtype=torch.int64)
        if centroids_MV is not None:
            nearest_C = nearest(t_CV.float().sqrt(), roots_MV)
            near_CV = centroids_MV[nearest_C]
            # what they have in common; as it is read
            shares_C = (torch.minimum(t_CV, near_CV).sum(-1) * MOST_SHARES).round().long()
            t_CV.addcmul_(near_CV, (shares_C.float() / -MOST_SHARES).double()[:, None])
        entries, levels_CK, totals_C = cached.draw(t_CV, uniforms_CU)
        of_entries = (entries.ids_NK, levels_CK, entries.num_head_N, entries.num_N)
        places_K = torch.arange(layout.num_entries, device=t_CV.device)
        is_plus_CK = (places_K >= entries.num_head_N[:, None]) & (entries.weights_NK > 0)
        of_shares = (is_plus_CK.sum(-1), totals_C, nearest_C, shares_C)
        of_row = (entropies_C, labels_C, tops_C, labels_C >= tops_C)
        columns = (*of_entries, *of_row, *of_shares)
        tiles.append([column.cpu().numpy() for column in columns])
    return CachedRows(*(np.concatenate(column) for column in zip(*tiles, strict=True)))
