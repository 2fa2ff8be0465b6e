"""The estimators against slow versions of themselves, and their expectations against the rows."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.signal.estimators import centroids, corrections, nearest, threshold
from dwt_cli.distill.signal.options import Cached, LikeliestOnly, Sampled, Threshold

V = 23


def rows(number: int = 6, size: int = V) -> Tensor:
    """Rows from nearly even to nearly certain, some of them with tokens of probability zero."""
    scale = torch.linspace(0.3, 3, number)[:, None]
    rng = torch.Generator().manual_seed(0)
    t_NV = (torch.randn(number, size, generator=rng).double() * scale).softmax(-1)
    t_NV[1, ::3] = 0
    return t_NV / t_NV.sum(-1, keepdim=True)


def slow_threshold(t: list[float], num_entries: int, u: float) -> dict[int, float]:
    """kappa by bisection of its equation; the tail by walking along it."""
    low, high = 0.0, 1.0
    for _ in range(200):
        kappa = (low + high) / 2
        reached = sum(min(1.0, p / kappa) for p in t)
        low, high = (kappa, high) if reached > num_entries else (low, kappa)
    found = {token: p for token, p in enumerate(t) if p > kappa * (1 + 1e-9)}
    walked, due = 0.0, u * kappa
    for token, p in enumerate(t):
        if token not in found or p <= kappa:
            walked += p
            if walked > due:
                found[token] = kappa
                due += kappa
    return found


def as_table(cached: Cached, t_NV: Tensor, uniforms_NU: Tensor) -> Tensor:
    """The targets as they are stored: of levels, and one weight for all others."""
    if cached.num_shared:
        return shared_table(cached, t_NV, uniforms_NU)
    entries, levels_NK, _ = cached.draw(t_NV, uniforms_NU)
    head_NK = levels_NK.double() / cached.num_levels
    places_K = torch.arange(head_NK.shape[1])
    num_tail_N1 = (entries.num_N - entries.num_head_N)[:, None]
    kappa_N1 = (1 - head_NK.sum(-1, keepdim=True)) / num_tail_N1.clamp_min(1)
    is_tail_NK = (places_K >= entries.num_head_N[:, None]) & (places_K < entries.num_N[:, None])
    weights_NK = torch.where(is_tail_NK, kappa_N1, head_NK)
    return torch.zeros_like(t_NV).scatter_add_(1, entries.ids_NK, weights_NK)


def shared_table(cached: Cached, t_NV: Tensor, uniforms_NU: Tensor) -> Tensor:
    """The same of rows that are two thirds of one distribution, and what corrects it."""
    share_V = 2 / 3 * torch.linspace(1, 3, t_NV.shape[1]).double().softmax(-1)
    entries, levels_NK, totals_N = cached.draw(t_NV - share_V, uniforms_NU)
    places_K = torch.arange(cached.num_entries)
    is_tail_NK = places_K >= entries.num_head_N[:, None]
    left_N1 = (totals_N - levels_NK.abs().sum(-1))[:, None].double()
    kappa_N1 = left_N1 / is_tail_NK.sum(-1, keepdim=True).clamp_min(1)
    weights_NK = torch.where(is_tail_NK, kappa_N1 * entries.weights_NK.sign(), levels_NK.double())
    table_NV = torch.zeros_like(t_NV).scatter_add_(1, entries.ids_NK, weights_NK)
    return share_V + table_NV / cached.num_levels


@pytest.mark.parametrize("num_entries", [1, 2, 7, 12])
@pytest.mark.parametrize("u", [0.01, 0.37, 0.999])
def test_threshold_is_what_a_slow_one_finds(num_entries: int, u: float) -> None:
    t_NV = rows()
    plain = Threshold(num_entries, num_centroids=0)
    entries, *_ = plain.draw(t_NV, torch.full((len(t_NV), 2), u).double())
    for row, t in enumerate(t_NV.tolist()):
        pairs = zip(entries.ids_NK[row].tolist(), entries.weights_NK[row].tolist(), strict=True)
        found = {token: weight for token, weight in pairs if weight > 1e-12}
        assert found == pytest.approx(slow_threshold(t, num_entries, u), abs=1e-9)
        assert sum(found.values()) == pytest.approx(1)


def test_sampled_is_the_shares_of_its_draws() -> None:
    t_NV, uniforms_NU = rows(), torch.rand(6, 9, dtype=torch.float64)
    table_NV = as_table(Sampled(9), t_NV, uniforms_NU)
    for row, t in enumerate(t_NV.tolist()):
        counts = [0] * V
        for u in uniforms_NU[row].tolist():
            reached = 0.0
            for token, p in enumerate(t):
                reached += p
                if reached > u:
                    counts[token] += 1
                    break
        assert table_NV[row].tolist() == pytest.approx([count / 9 for count in counts])


def test_top_k_keeps_the_likeliest() -> None:
    t_NV = rows()
    table_NV = as_table(LikeliestOnly(5), t_NV, torch.zeros(6, 0))
    for row, t in enumerate(t_NV.tolist()):
        likeliest = sorted(range(V), key=lambda token: -t[token])[:5]
        expected = [p if token in likeliest else 0.0 for token, p in enumerate(t)]
        assert table_NV[row].tolist() == pytest.approx(expected, abs=1 / 1023)


def z_scores(cached: Cached, num_draws: int, of: Callable[[Tensor], Tensor]) -> Tensor:
    """How many standard errors the mean over draws is from what all of the row gives."""
    t_NV, batch = 0.9 * rows(4, 9) + 0.1 / 9, 500  # what is all but never drawn tells nothing
    rng = torch.Generator().manual_seed(1)
    total, squares, exact = 0.0, 0.0, of(t_NV)
    for _ in range(num_draws // batch):
        uniforms = torch.rand(batch * 4, cached.num_uniforms, generator=rng, dtype=torch.float64)
        found = of(as_table(cached, t_NV.repeat(batch, 1), uniforms)) - exact.repeat(batch, 1)
        by_draw = found.view(batch, *exact.shape)
        total, squares = total + by_draw.sum(0), squares + by_draw.square().sum(0)
    mean = total / num_draws
    error = (squares / num_draws - mean**2).clamp_min(0).sqrt() / math.sqrt(num_draws)
    assert (error > 0).any()
    # what is always the same has no spread: it has to be right
    return torch.where(error > 1e-12, mean / error, torch.where(mean.abs() < 1e-9, 0.0, 1e9))


def gradient_of_states(targets_NV: Tensor) -> Tensor:
    """(sum s) p - s, through a head: what a student's last states get of its forward KL."""
    rng = torch.Generator().manual_seed(5)
    size = targets_NV.shape[1]
    weight_VD = torch.randn(size, 3, generator=rng).double()
    p_V = torch.randn(size, generator=rng).double().softmax(-1)
    return (targets_NV.sum(-1, keepdim=True) * p_V - targets_NV) @ weight_VD


@pytest.mark.parametrize(
    "cached",
    [*(Threshold(k, num_centroids=32) for k in (5, 1)), Threshold(5), Sampled(7)],
    ids=str,
)
@pytest.mark.parametrize("of", [lambda s_NV: s_NV, gradient_of_states], ids=["token", "gradient"])
@pytest.mark.parametrize(
    "num_draws", [2_000, pytest.param(100_000, marks=pytest.mark.slow)], ids=str
)
def test_unbiased(cached: Cached, of: Callable[[Tensor], Tensor], num_draws: int) -> None:
    z = z_scores(cached, num_draws, of)
    # two-sided, at 1e-4 over all that are looked at together (Bonferroni)
    limit = torch.special.ndtri(torch.tensor(1 - 1e-4 / 2 / z.numel(), dtype=torch.float64))
    assert z.abs().max() < limit


def test_corrections_have_signs_and_those_above_zero_come_first() -> None:
    r_NV = rows() - rows().flip(0)
    entries = corrections(r_NV, 7, torch.full((len(r_NV), 1), 0.4).double())
    of_size = threshold(r_NV.abs(), 7, torch.full((len(r_NV), 1), 0.4).double())
    for row, r in enumerate(r_NV):
        num_head = int(entries.num_head_N[row])
        ids, weights = entries.ids_NK[row], entries.weights_NK[row]
        assert ids.sort().values.tolist() == of_size.ids_NK[row].sort().values.tolist()
        torch.testing.assert_close(weights[:num_head], r[ids[:num_head]])
        assert (weights.sign() == r[ids].sign()).all()
        assert (weights[num_head:].sign().diff() <= 0).all()


def test_centroids_are_the_means_of_what_is_alike() -> None:
    one_V, other_V = rows(2)
    rng = torch.Generator().manual_seed(3)
    kinds_N = torch.randint(0, 2, (40,), generator=rng)
    t_NV = torch.stack([one_V, other_V])[kinds_N] * (0.9 + 0.2 * torch.rand(40, V, generator=rng))
    t_NV /= t_NV.sum(-1, keepdim=True)
    found_MV = centroids(t_NV, 2)
    means = [t_NV[kinds_N == kind].mean(0) for kind in (0, 1)]
    first = int(nearest(one_V.sqrt()[None], found_MV.sqrt()))
    torch.testing.assert_close(found_MV[[first, 1 - first]], torch.stack(means))


def test_a_biased_one_is_seen() -> None:
    z = z_scores(Threshold(5, num_centroids=0), 2_000, lambda s_NV: s_NV + 0.02 * (s_NV > 0))
    assert z.abs().max() > 10


def test_variance_is_as_said_and_below_that_of_sampling() -> None:
    t_NV, num_draws = rows(), 4000
    found = {}
    for cached in (Threshold(7, num_centroids=0), Sampled(7)):
        uniforms = torch.rand(num_draws * 6, cached.num_uniforms, dtype=torch.float64)
        tables = as_table(cached, t_NV.repeat(num_draws, 1), uniforms).view(num_draws, 6, V)
        found[type(cached)] = (tables - t_NV).square().sum(-1).mean(0)
    entries, *_ = Threshold(7, num_centroids=0).draw(t_NV, torch.zeros(6, 2).double())
    kappa_N1 = entries.weights_NK[:, -1:]
    said_N = torch.where(t_NV < kappa_N1, t_NV * (kappa_N1 - t_NV), 0.0).sum(-1)
    torch.testing.assert_close(found[Threshold], said_N, rtol=0.1, atol=3e-6)
    said_N = (1 - t_NV.square().sum(-1)) / 7
    torch.testing.assert_close(found[Sampled], said_N, rtol=0.1, atol=1e-4)
    assert (found[Threshold] < found[Sampled]).all()
