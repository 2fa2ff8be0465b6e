"""How a tensor of a narrower teacher fills that of a wider student.

Along a *written* axis (a matrix's rows, a bias, an embedding's columns) places are copies of the
teacher's. Along a *read* axis (a matrix's columns: what is summed over) the copies of one place
share its weight, so that the sum stays what it was. A rule maps a `Piece` to a tensor of the
student's shape.

Widths count whole heads of the teacher's size, so that a copied place keeps its place in its head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
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


Rule = Callable[[Piece], Tensor]
_Places = Callable[[Axis], Tensor]


def net2net(piece: Piece) -> Tensor:
    """Widen as Net2Net (arXiv 1511.05641), as bert2BERT's FPI (arXiv 2110.07143) by heads.

    The copies of a place share equally. Place i copies place i mod ``old``: then all places have
    the same number of copies where the width is a multiple of the teacher's, LayerNorm sees the
    same mean and variance, and the student computes what its teacher does. bert2BERT draws
    places at random, and is exact up to LayerNorm.
    """
    return _grown(piece, _around, shared=True)


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
    return _grown(piece, _around_the_middle, shared=False)


def lemon(piece: Piece) -> Tensor:
    """Widen as LEMON (arXiv 2310.07999) at a multiple of the width: copies share unequally.

    As `net2net`, plus the student's own initialisation less its mean over the copies of each
    place: that adds up to zero over equal inputs, and makes equal copies learn differently.
    """
    grown = net2net(piece)
    for dim, axis in enumerate(piece.axes):
        if axis.read and axis.new > axis.old:
            grown = grown + piece.fresh - _mean_over_copies(piece.fresh, dim, axis)
    return grown


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (net2net, aki, tile, lemon)}
FROM_TWO_LAYERS = ("aki",)
"""Rules that make a layer of the teacher's layer and the one after it."""
EXACT_OR_NOTHING = ("lemon",)
"""Rules that are for multiples of the teacher's width alone."""


def _around(axis: Axis) -> Tensor:
    """Return the teacher's place for each of the student's, int64 (new,): in order, repeated."""
    return torch.arange(axis.new) % axis.old


def _around_the_middle(axis: Axis) -> Tensor:
    """Return `_around` with the first whole copy in the middle."""
    before = (axis.new - axis.old) // axis.unit // 2 * axis.unit
    return (torch.arange(axis.new) - before) % axis.old


def _grown(piece: Piece, places: _Places, shared: bool) -> Tensor:
    grown = piece.own
    for dim, axis in enumerate(piece.axes):
        index = places(axis)
        grown = grown.index_select(dim, index.to(grown.device))
        if shared and axis.read:
            grown = grown * _share(index, dim, grown)
    return grown


def _mean_over_copies(tensor: Tensor, dim: int, axis: Axis) -> Tensor:
    """Return for each of the student's places the mean over all that copy the same one."""
    index = _around(axis)
    there = index.to(tensor.device)
    shape = [*tensor.shape]
    shape[dim] = axis.old
    total = tensor.new_zeros(shape).index_add(dim, there, tensor).index_select(dim, there)
    return total * _share(index, dim, tensor)


def _share(index: Tensor, dim: int, like: Tensor) -> Tensor:
    """Return 1 / number of copies for each of the student's places, along ``dim`` of ``like``."""
    share = 1 / index.bincount()[index].to(like.dtype)
    return share.to(like.device).view(-1, *[1] * (like.ndim - dim - 1))
