"""Eq. 3 over tiles of rows, from the states that enter the head: no (N, V) table is there whole.

The loss is a sum over rows with known weights, so the gradient of a tile is known as soon as its
logits are, and becomes that of its states and of the head's weights before the next tile.

Legend: N target rows, D width, V vocabulary, C rows of one tile.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.fused import Comparison, Sums, distillation_sums
from dwt_cli.distill.teacher.targets import DenseLogits, SoftTargets

TILE_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}  # of a tile's logits in fp32

Head = Callable[[Tensor], Tensor]


def tiled_sums(
    hidden_ND: Tensor,
    head: Head,
    teacher: SoftTargets | None,
    labels_N: Tensor,
    weights: Weights,
    comparison: Comparison,
) -> Sums:
    """Return what `distillation_sums` does of head(hidden_ND).

    Its gradient goes to the states and to the parameters of the head.
    """

    def of_tile(tile_CD: Tensor, rows: slice) -> Sums:
        targets = None if teacher is None else DenseLogits(teacher.dense(rows))
        return distillation_sums(head(tile_CD), targets, labels_N[rows], weights, comparison)

    with torch.enable_grad():
        logits_1V = head(hidden_ND[:1].detach())
    parameters = _leaves(logits_1V)
    bytes_of_tile = TILE_BYTES[hidden_ND.device.type]
    size = max(1, bytes_of_tile // (4 * logits_1V.shape[-1]))
    total, terms = _Tiled.apply(hidden_ND, of_tile, size, *parameters)  # type: ignore[no-untyped-call]
    hard, correct, of_teacher, selected, *soft = terms.unbind()
    named = dict(zip(comparison.objectives, soft, strict=True))
    return Sums(total, hard, named, of_teacher, correct, selected)


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the parameters that a tensor was computed from, each once, in the order found."""
    found: dict[int, Tensor] = {}
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.setdefault(id(leaf), leaf)
        waiting += [before for before, _ in node.next_functions]
    return list(found.values())


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        of_tile: Callable[[Tensor, slice], Sums],
        size: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = any(ctx.needs_input_grad)
        gradient_ND = torch.empty_like(hidden_ND)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        totals, terms = [], []
        for start in range(0, len(hidden_ND), size):
            rows = slice(start, start + size)
            tile_CD = hidden_ND[rows].detach().requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                sums = of_tile(tile_CD, rows)
            if needs_gradient:
                wanted = [tile_CD, *parameters]
                of_states, *of_parameters = torch.autograd.grad(sums.total, wanted)
                gradient_ND[rows] = of_states
                for gradient, more in zip(gradients, of_parameters, strict=True):
                    gradient += more
            single = [sums.hard, sums.correct, sums.teacher, sums.selected, *sums.soft.values()]
            totals.append(sums.total.detach())
            terms.append(torch.stack(single))
        ctx.save_for_backward(gradient_ND, *gradients)
        summed = torch.stack(terms).sum(0)
        ctx.mark_non_differentiable(summed)
        return torch.stack(totals).sum(), summed

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        gradient_ND, *gradients = ctx.saved_tensors
        of_parameters = [gradient * grad_total for gradient in gradients]
        return gradient_ND * grad_total, None, None, *of_parameters
