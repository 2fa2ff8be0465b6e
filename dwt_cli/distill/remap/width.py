"""How a tensor of a narrower teacher fills that of a wider student.

Along a *written* axis (a matrix's rows, a bias, an embedding's columns) places are copies of the
teacher's. Along a *read* axis (a matrix's columns: what is summed over) the copies of one place
share its weight, so that the sum stays what it was. A rule maps a `Piece` to a tensor of the
student's shape.

Widths count whole heads of the teacher's size, so that a copied place keeps its place in its head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """An axis of ``old`` places in the teacher and ``new`` ones in the student.

    unit: neighbouring places that stay together, e.g. those of a head.
    """

    old: int
    new: int
    read: bool = False
    unit: int = 1


@dataclass(frozen=True)
class Piece:
    """A tensor of the teacher, and what may be needed to make the student's of it.

    own: the tensor. following: the same one of the teacher's next layer, or ``own`` again where
    there is none. fresh: the student's tensor as it was initialised. axes: one for each axis.
    """

    own: Tensor
    following: Tensor
    fresh: Tensor
    axes: tuple[Axis, ...]


Rule = Callable[[Piece], "Tensor"]


def net2net(piece: Piece) -> Tensor:
    """Widen as Net2Net (arXiv 1511.05641), as bert2BERT's FPI (arXiv 2110.07143) by heads.

    The copies of a place share equally. Place i copies place i mod ``old``: then all places have
    the same number of copies where the width is a multiple of the teacher's, LayerNorm sees the
    same mean and variance, and the student computes what its teacher does. bert2BERT draws
    places at random, and is exact up to LayerNorm.
    """
    grown = piece.own
    for dim, axis in enumerate(piece.axes):
        grown = grown.index_select(dim, _places(axis, grown))
        if axis.read:
            grown = grown * _share(dim, axis, grown)
    return grown


def aki(piece: Piece) -> Tensor:
    """Widen by bert2BERT's advanced knowledge initialisation (arXiv 2110.07143, section 3.3).

    As `net2net`, but the written places beyond the teacher's come from its next layer. It changes
    the function, and breaks the symmetry between copies.
    """
    grown, next_layer = net2net(piece), net2net(replace(piece, own=piece.following))
    for dim, axis in enumerate(piece.axes):
        if not axis.read:
            beyond = (dim, axis.old, axis.new - axis.old)
            grown.narrow(*beyond).copy_(next_layer.narrow(*beyond))
    return grown


def tile(piece: Piece) -> Tensor:
    """Tile around the teacher in the middle, as ModernBERT does (arXiv 2412.13663).

    Nothing is shared out: every sum grows by the ratio of the widths, the logits too. Heads stay
    whole, where ModernBERT's tiling may cut one in two.
    """
    grown = piece.own
    for dim, axis in enumerate(piece.axes):
        before = (axis.new - axis.old) // axis.unit // 2 * axis.unit
        grown = grown.index_select(dim, _places(axis, grown, before))
    return grown


def lemon(piece: Piece) -> Tensor:
    """Widen as LEMON (arXiv 2310.07999) at a multiple of the width: copies share unequally.

    As `net2net`, plus the student's own initialisation less its mean over the copies of each
    place: that adds up to zero over equal inputs, and makes equal copies learn differently.
    """
    grown = net2net(piece)
    for dim, axis in enumerate(piece.axes):
        if axis.read and axis.new > axis.old:
            grown = grown + _unequal(piece.fresh, dim, axis)
    return grown


def decorrelated(piece: Piece) -> Tensor:
    """Widen as `lemon`, so unequally that the copies of a place are uncorrelated where it is read.

    An initialisation is small beside trained weights, and copies that differ by so little learn
    alike for long (arXiv 2510.00304). With c copies that share w, what is added to each has the
    norm of sqrt(c - 1) w / c, and their products are 0, for c > 2 on average. A gain's copies are
    equal. Ours.
    """
    grown = net2net(piece)
    for dim, axis in enumerate(piece.axes):
        others = [other for other in range(grown.ndim) if other != dim]
        if axis.read and axis.new > axis.old and others:
            added = _unequal(piece.fresh, dim, axis)
            count = 1 / _share(dim, axis, grown)
            wanted = (count - 1) * grown.square().sum(others, keepdim=True)
            given = added.square().sum(others, keepdim=True)
            given = _mean_over_copies(given, dim, axis).clamp_min(1e-30)
            grown = grown + added * (wanted / given).sqrt()
    return grown


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (net2net, aki, tile, lemon, decorrelated)}
FROM_TWO_LAYERS = ("aki",)
"""Rules that make a layer of the teacher's layer and the one after it."""
EXACT_OR_NOTHING = ("lemon", "decorrelated")
"""Rules that are for multiples of the teacher's width alone."""


def _places(axis: Axis, like: Tensor, before: int = 0) -> Tensor:
    """Return the teacher's place for each of the student's, int64 (new,), where ``like`` is.

    They are in order and repeated; before: the number of places before the first whole copy.
    """
    import torch

    return (torch.arange(axis.new, device=like.device) - before) % axis.old


def _share(dim: int, axis: Axis, like: Tensor) -> Tensor:
    """Return 1 / number of copies for each of the student's places, along ``dim`` of ``like``."""
    place = _places(axis, like)
    count = axis.new // axis.old + (place < axis.new % axis.old)
    return (1 / count.to(like.dtype)).view(-1, *[1] * (like.ndim - dim - 1))


def _unequal(fresh: Tensor, dim: int, axis: Axis) -> Tensor:
    """Return an initialisation less its mean over the copies of each place, which add up to 0."""
    return fresh - _mean_over_copies(fresh, dim, axis)


def _mean_over_copies(tensor: Tensor, dim: int, axis: Axis) -> Tensor:
    """Return for each of the student's places the mean over all that copy the same one."""
    place = _places(axis, tensor)
    shape = [*tensor.shape]
    shape[dim] = axis.old
    total = tensor.new_zeros(shape).index_add(dim, place, tensor).index_select(dim, place)
    return total * _share(dim, axis, tensor)
