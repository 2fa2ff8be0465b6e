"""Bytes of rows, and the store that gives them back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.signal.cached import as_distributions, asked, layout_of
from dwt_cli.distill.signal.coding import CachedRows
from dwt_cli.distill.signal.options import Cached, LikeliestOnly, Sampled, Threshold
from dwt_cli.distill.signal.store import Store, keys_of, write_shard
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, Request, TeacherSignal
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place

V, L = 300, 12
PLAIN = Threshold(5, num_centroids=0)
KINDS = [PLAIN, Threshold(1, num_centroids=0), Sampled(9), LikeliestOnly(4)]
KINDS.append(Threshold(5, num_centroids=32))
CENTROIDS_MV = as_distributions(
    (3 * torch.randn(32, V, generator=torch.Generator().manual_seed(7))).softmax(-1).half().numpy()
)


class Table(TeacherSignal):
    """A teacher whose logits follow from the id before: a row of a table."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.table_VV = torch.randn(V, V, generator=rng) * torch.linspace(0.5, 6, V)[:, None]

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        return Answer(DenseLogits(self.table_VV[batch.ids_BL.flatten()[batch.rows_N]]))


def batch_of(*numbers: int) -> Batch:
    """Causal blocks, each a function of its number."""
    blocks = [np.random.default_rng(number).integers(0, V, L) for number in numbers]
    return NextToken().batch(np.stack(blocks), 0, [Place(n, 0, 0) for n in numbers])


def stored(folder: Path, cached: Cached, *numbers: int, tau: float = 1.0) -> Store:
    layout = layout_of(cached, V)
    for number, block in enumerate(numbers):
        batch = batch_of(block)
        centroids = CENTROIDS_MV if cached.num_shared else None
        kept_as = (cached, layout, tau, centroids)
        blocks = list(asked(Table(), batch, keys_of(batch, "fp32"), *kept_as))
        write_shard(folder, number, blocks)
    return Store(folder, layout, range(len(numbers)))


@pytest.mark.parametrize("cached", KINDS, ids=str)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_what_is_kept_comes_back(tmp_path: Path, cached: Cached, tau: float) -> None:
    store = stored(tmp_path, cached, 1, 2, 3, tau=tau)
    batch = batch_of(3, 1)
    found = EntryRows(*store.entries(batch, "fp32"))
    ids_NK, weights_NK, entropies_N1, labels_N1, tops_N1, are_likeliest_N1, *_ = found
    logits_NV = Table()(batch).targets.dense().double()
    t_NV, plain_NV = (logits_NV / tau).softmax(-1), logits_NV.log_softmax(-1)
    found_NV = torch.zeros(len(ids_NK), V).scatter_add_(1, ids_NK, weights_NK)
    torch.testing.assert_close(
        entropies_N1[:, 0].double(), -t_NV.xlogy(t_NV).sum(-1), atol=2e-3, rtol=0
    )
    label_N = plain_NV.gather(1, batch.labels_N[:, None])[:, 0].clamp_min(-32)
    torch.testing.assert_close(labels_N1[:, 0].double(), label_N, atol=8e-3, rtol=0)
    torch.testing.assert_close(tops_N1[:, 0].double(), plain_NV.amax(-1), atol=3e-3, rtol=0)
    assert are_likeliest_N1[:, 0].tolist() == (plain_NV.argmax(-1) == batch.labels_N).tolist()
    assert ids_NK.dtype == torch.int64 and weights_NK.dtype == torch.float32
    if isinstance(cached, LikeliestOnly):
        kept_NV = t_NV.where(t_NV >= t_NV.topk(4).values[:, -1:], 0.0)
        torch.testing.assert_close(found_NV.double(), kept_NV, atol=1.1 / 1023, rtol=0)
        return
    if found.shares_C1 is not None:
        assert found.centroids_C1 is not None
        near_NV = CENTROIDS_MV[found.centroids_C1[:, 0]]
        overlaps_N1 = torch.minimum(t_NV.float(), near_NV).sum(-1, keepdim=True)
        torch.testing.assert_close(found.shares_C1, overlaps_N1, atol=0.5 / 15 + 1e-6, rtol=0)
        left_NV = t_NV - found.shares_C1.double() * near_NV
        sizes_N = found_NV.abs().sum(-1).double()
        torch.testing.assert_close(sizes_N, left_NV.abs().sum(-1), atol=1.1 / 511, rtol=0)
        assert (found_NV.sign() * left_NV.sign() >= 0).all()
        return
    assert ((found_NV > 0).sum(-1) <= cached.num_entries).all()
    torch.testing.assert_close(found_NV.sum(-1), torch.ones(len(found_NV)))
    if isinstance(cached, Sampled):
        assert (found_NV * 9 - (found_NV * 9).round()).abs().max() < 1e-5
    else:
        heads = t_NV > 1 / cached.num_entries  # whatever kappa is, it is not above this
        assert (found_NV - t_NV)[heads].abs().max() < 1.1 / 1023 if heads.any() else True


def test_what_is_drawn_follows_from_block_and_seed_alone(tmp_path: Path) -> None:
    cached = PLAIN
    alone, among = (
        stored(tmp_path / name, cached, *numbers).entries(batch_of(2), "fp32")
        for name, numbers in (("a", (2,)), ("b", (7, 2, 5)))
        if not (tmp_path / name).mkdir()
    )
    assert all(torch.equal(one, other) for one, other in zip(alone, among, strict=True))
    (tmp_path / "c").mkdir()
    other = stored(tmp_path / "c", replace(PLAIN, seed=1), 2).entries(batch_of(2), "fp32")
    assert not torch.equal(alone[0], other[0])


def test_rows_are_found_by_all_that_the_teacher_was_shown(tmp_path: Path) -> None:
    store = stored(tmp_path, PLAIN, 1, 2)
    assert store.entries(batch_of(2, 1, 2), "fp32")
    assert not store.entries(batch_of(1, 3), "fp32"), "another text"
    assert not store.entries(batch_of(1), "bf16"), "another way to compute"
    ids_BL = batch_of(1).ids_BL.numpy()
    apart = NextToken(mark_id=int(ids_BL[0, 3])).batch(ids_BL, 0, [Place(1, 0, 0)])
    assert not store.entries(apart, "fp32"), "separate documents"
    fewer = batch_of(1)
    fewer = Batch(fewer.ids_BL, fewer.rows_N[1:], fewer.labels_N[1:], fewer.places_B3)
    assert not store.entries(fewer, "fp32"), "other targets"


@pytest.mark.parametrize("num_centroids", [0, 32])
def test_as_few_bits_as_their_values_need(num_centroids: int) -> None:
    num_rows, vocab_size, cached = 255, 32_768, Threshold(12, num_centroids=num_centroids)
    layout, draw = layout_of(cached, vocab_size), np.random.default_rng(0)
    num_head_T = draw.integers(0, 8, num_rows)
    levels_TK = draw.integers(1, 90, (num_rows, 12)) * (np.arange(12) < num_head_T[:, None])
    ids_TK = draw.integers(0, vocab_size, (num_rows, 12))
    full_T, half_T = np.full(num_rows, 12), np.full(num_rows, 0.5)
    known = (half_T, -half_T, -half_T, draw.random(num_rows) < 0.5)
    shares = [full_T - num_head_T, np.full(num_rows, 1023), 0 * full_T, 0 * full_T]
    if num_centroids:
        levels_TK *= draw.choice([-1, 1], levels_TK.shape)
        shares = [draw.integers(0, most, num_rows) for most in (13, 1023, 32, 16)]
    rows = CachedRows(ids_TK, levels_TK, num_head_T, full_T, *known, *shares)
    content = layout.encode(rows)
    again = layout.decode([content], [num_rows])
    for name in set(CachedRows._fields) - {"entropies_T", "labels_T", "tops_T"}:
        assert (getattr(again, name) == getattr(rows, name)).all(), name
    bits = num_rows * (4 + 11 + 11 + 10 + 1 + 12 * 15) + 10 * int(num_head_T.sum())
    if num_centroids:
        bits += num_rows * (4 + 10 + 5 + 4)  # the level is one bit shorter, and has a sign
    assert bits / 8 <= len(content) <= bits / 8 + 12
