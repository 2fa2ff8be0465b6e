"""Estimators: a few tokens of a row, with weights that stand for all of its probabilities.

An estimator is unbiased where the expectation of a token's weight, zero where it is not chosen, is
its probability; then so is the gradient of the forward KL. They are pure functions of dense rows
and of uniform numbers. Legend: N rows, V vocabulary, K entries, U uniforms.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Entries(NamedTuple):
    """The tokens that are cached of each row.

    ids_NK: int64. weights_NK: fp64, zero beyond the entries that a row has; the head's, in falling
    order of size, come first, and those that follow are of equal size. num_head_N, num_N: int64,
    of the head and of all entries.
    """

    ids_NK: Tensor
    weights_NK: Tensor
    num_head_N: Tensor
    num_N: Tensor


def threshold(t_NV: Tensor, num_entries: int, uniforms_N1: Tensor) -> Entries:
    """Keep probabilities above kappa as they are, and of the others some, each with weight kappa.

    kappa solves sum min(1, t / kappa) = K; a token of the tail is chosen with probability t /
    kappa, by one systematic draw, so that there are K entries whose weights sum to what t does. It
    is the optimal resampling of particle filters (Fearnhead and Clifford 2003, from memory).
    Unbiased; the variance of a token of the tail is t (kappa - t).

    t_NV: fp64, of any sums above zero. uniforms_N1: in [0, 1).
    """
    places_K = torch.arange(num_entries, device=t_NV.device)
    top_NK, ids_NK = t_NV.topk(num_entries, -1)
    before_NK = F.pad(top_NK.cumsum(-1), (1, -1))
    kappas_NK = (t_NV.sum(-1, keepdim=True) - before_NK).clamp_min(0) / (num_entries - places_K)
    is_below_NK = top_NK <= kappas_NK
    is_below_NK[:, -1] = True  # but for rounding it is
    num_head_N1 = is_below_NK.int().argmax(-1, keepdim=True)
    is_head_NK = places_K < num_head_N1
    tail_NV = t_NV.scatter(1, ids_NK, torch.where(is_head_NK, 0.0, top_NK))
    sums_NV = tail_NV.cumsum(-1)
    # its own sum: the last point is then within it
    points_NK = (uniforms_N1 + places_K) * (sums_NV[:, -1:] / (num_entries - num_head_N1))
    drawn_NK = torch.searchsorted(sums_NV, points_NK, right=True).clamp_max(t_NV.shape[1] - 1)
    drawn_NK = drawn_NK.gather(1, (places_K - num_head_N1).clamp_min(0))
    kappa_N1 = kappas_NK.gather(1, num_head_N1)
    return Entries(
        torch.where(is_head_NK, ids_NK, drawn_NK),
        torch.where(is_head_NK, top_NK, kappa_N1),
        num_head_N1[:, 0],
        torch.full_like(num_head_N1[:, 0], num_entries),
    )


def corrections(r_NV: Tensor, num_entries: int, uniforms_N1: Tensor) -> Entries:
    """Return `threshold` of what differs from a centroid's share, with its signs. Unbiased.

    r_NV: fp64, of any sign. Behind the head weights above zero come before those below.
    """
    entries = threshold(r_NV.abs(), num_entries, uniforms_N1)
    places_K = torch.arange(num_entries, device=r_NV.device)
    signs_NK = r_NV.gather(1, entries.ids_NK).sign()
    is_last_NK = (places_K >= entries.num_head_N[:, None]) & (signs_NK < 0)
    order_NK = is_last_NK.int().argsort(dim=-1, stable=True)
    weights_NK = (entries.weights_NK * signs_NK).gather(1, order_NK)
    return entries._replace(ids_NK=entries.ids_NK.gather(1, order_NK), weights_NK=weights_NK)


def centroids(t_NV: Tensor, number: int, num_rounds: int = 8) -> Tensor:
    """Return the mean rows (M, V) of so many clusters, by k-means of the rows' square roots.

    Distances are thus Hellinger's. It begins with rows that are evenly spaced; a cluster that is
    left empty gets the mean of all.
    """
    roots_NV = t_NV.sqrt()
    starts_M = torch.linspace(0, len(t_NV) - 1, number, device=t_NV.device).long()
    found_MV = t_NV[starts_M]
    for _ in range(num_rounds):
        nearest_N = nearest(roots_NV, found_MV.to(roots_NV.dtype).sqrt())
        sums_MV = torch.zeros_like(found_MV).index_add_(0, nearest_N, t_NV)
        counts_M1 = nearest_N.bincount(minlength=number)[:, None]
        found_MV = torch.where(counts_M1 > 0, sums_MV / counts_M1.clamp_min(1), t_NV.mean(0))
    return found_MV


def nearest(roots_NV: Tensor, roots_MV: Tensor) -> Tensor:
    """Return the number of the centroid that overlaps most with each row; both come as roots."""
    return (roots_NV @ roots_MV.T).argmax(-1)


def sampled(t_NV: Tensor, uniforms_NU: Tensor) -> Entries:
    """Keep the distinct tokens of U draws with replacement, with their shares of the draws.

    Random sampling knowledge distillation (arXiv 2503.16870), at proposal temperature 1. Unbiased;
    the variance of a token is t (1 - t) / U. The head is what was drawn more than once.
    """
    num_draws = uniforms_NU.shape[1]
    sums_NV = t_NV.cumsum(-1)
    drawn_NU = torch.searchsorted(sums_NV, uniforms_NU * sums_NV[:, -1:], right=True)
    drawn_NU = drawn_NU.clamp_max(t_NV.shape[1] - 1).sort(-1).values
    is_new_NU = F.pad(drawn_NU.diff(dim=-1) != 0, (1, 0), value=True)
    groups_NU = is_new_NU.cumsum(-1) - 1
    counts_NU = torch.zeros_like(drawn_NU).scatter_add_(1, groups_NU, torch.ones_like(drawn_NU))
    ids_NU = torch.zeros_like(drawn_NU).scatter_(1, groups_NU, drawn_NU)
    counts_NU, order_NU = counts_NU.sort(stable=True, descending=True)
    weights_NU = counts_NU.to(t_NV.dtype) / num_draws
    num_head_N, num_N = ((counts_NU > least).sum(-1) for least in (1, 0))
    return Entries(ids_NU.gather(1, order_NU), weights_NU, num_head_N, num_N)


def top_k(t_NV: Tensor, num_entries: int) -> Entries:
    """Keep the likeliest tokens with their probabilities; what is missing of one is the rest's."""
    top_NK, ids_NK = t_NV.topk(num_entries, -1)
    num_N = torch.full_like(ids_NK[:, 0], num_entries)
    return Entries(ids_NK, top_NK, num_N, num_N)


def in_levels(
    entries: Entries, num_levels: int, uniforms_N1: Tensor, most: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the head's weights and the sum of all as whole numbers of 1 / ``num_levels``.

    Running sums of sizes are rounded, all by one uniform number: each weight is so in expectation,
    and so is what the head leaves of the sum, which is off by less than one level. Weights: int64
    (N, K), signed, 0 beyond the head. Sum: int64 (N,). most: that it can be.
    """
    places_K = torch.arange(entries.ids_NK.shape[1], device=entries.ids_NK.device)
    sums_NK = entries.weights_NK.abs().cumsum(-1).clamp_max(most)
    whole_NK = (sums_NK * num_levels + uniforms_N1).floor().long()
    levels_NK = whole_NK.diff(dim=-1, prepend=torch.zeros_like(whole_NK[:, :1]))
    is_head_NK = places_K < entries.num_head_N[:, None]
    return torch.where(is_head_NK, levels_NK * entries.weights_NK.sign().long(), 0), whole_NK[:, -1]
