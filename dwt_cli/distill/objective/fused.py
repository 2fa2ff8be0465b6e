"""Equations 1 to 3 of the paper (arXiv 2305.18239, section 2) over target rows, and relatives.

Softmax and sums are in fp32 whatever the models compute in. Losses are sums over rows, in nats,
with known weights: the gradient of some rows is known as soon as their loss is.
Legend: N target rows, V vocabulary, D width, C rows of one chunk, or of one tile.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.base import Distribution, Divergence, Rows
from dwt_cli.distill.objective.revise import NoRevision, Revise
from dwt_cli.distill.objective.select import AllRows, Select
from dwt_cli.distill.teacher.signal import DenseLogits, SoftTargets

CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}  # on a CPU a chunk's fp32 rows stay in the cache
FUSED_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}  # of a fused pass, which makes fewer tables
TILE_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}  # of a tile's logits in fp32


class Sums(NamedTuple):
    """Sums over the target rows, scalars in fp32; ``total`` alone carries a gradient.

    hard: cross-entropy with the label (eq. 1). soft: each divergence from the teacher by the name
    of its objective, without its weight. teacher: the teacher's own cross-entropy with the label.
    correct: rows in which no logit is above the label's. selected: rows in which the soft loss
    counts.
    """

    total: Tensor
    hard: Tensor
    soft: dict[str, Tensor]
    teacher: Tensor
    correct: Tensor
    selected: Tensor


class Comparison(NamedTuple):
    """The settings of a comparison with the teacher's distributions, at one moment of training."""

    objectives: Mapping[str, Divergence]
    revise: Revise = NoRevision()
    select: Select = AllRows()
    progress: float = 0.0


def distillation_sums(
    student_NV: Tensor,
    teacher: SoftTargets | None,
    labels_N: Tensor,
    weights: Weights,
    comparison: Comparison,
    *,
    compiled: bool = False,
) -> Sums:
    """Return alpha_hard * hard + alpha_soft * sum of weight * soft (eq. 3), and its terms.

    The gradient with respect to the logits is known in closed form, and written in the same pass
    over chunks of rows: no (N, V) table of log-probabilities is kept.

    student_NV: logits of any float type. teacher: gets no gradient; None: the soft terms are zero.
    labels_N: int64. compiled: the pass over rows that need a gradient is fused by torch.compile.
    """

    def compute(needs_gradient: bool) -> _Computed:
        num_rows, vocab_size = student_NV.shape
        fused = compiled and needs_gradient
        of_rows = _fused() if fused else _of_rows
        chunk_bytes = (FUSED_BYTES if fused else CHUNK_BYTES)[student_NV.device.type]
        step = max(1, chunk_bytes // (4 * vocab_size))
        gradient_NV = torch.empty_like(student_NV) if needs_gradient else None
        numbers = _numbers(weights, comparison)
        now = _on(student_NV.device, numbers) if fused else numbers
        rules = (tuple(comparison.objectives.values()), comparison.revise, comparison.select)
        of_chunks = [
            of_rows(
                student_NV[rows],
                None if teacher is None else teacher.dense(rows),
                labels_N[rows, None],
                now,
                rules,
                None if gradient_NV is None else gradient_NV[rows],
            )
            for rows in (slice(start, start + step) for start in range(0, num_rows, step))
        ]
        # at once over all chunks: many small operations add up
        columns = (torch.cat(column) for column in zip(*of_chunks, strict=True))
        terms = torch.stack([column.sum(dtype=torch.float32) for column in columns])
        if teacher is None:
            terms = torch.cat([terms, terms.new_zeros(2 + len(comparison.objectives))])
        total = weights.hard * terms[0]
        for factor, loss in zip(numbers[2::2], terms[4:], strict=True):
            total = total + factor * loss
        return total, terms, [gradient_NV]

    return _sums(compute, comparison, student_NV)


def tiled_sums(
    hidden_ND: Tensor,
    head: Callable[[Tensor], Tensor],
    teacher: SoftTargets | None,
    labels_N: Tensor,
    weights: Weights,
    comparison: Comparison,
) -> Sums:
    """Return what `distillation_sums` does of head(hidden_ND), which is never there whole.

    The gradient of a tile's logits becomes that of its states and of the head's parameters before
    the next tile.
    """
    with torch.enable_grad():
        logits_1V = head(hidden_ND[:1].detach())
    parameters = _leaves(logits_1V)
    size = max(1, TILE_BYTES[hidden_ND.device.type] // (4 * logits_1V.shape[-1]))

    def compute(needs_gradient: bool) -> _Computed:
        gradient_ND = torch.empty_like(hidden_ND)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]

        def of_tile(rows: slice) -> tuple[Tensor, Tensor]:
            """Return total and terms; what they were computed from is gone with the tile."""
            tile_CD = hidden_ND[rows].detach().requires_grad_(needs_gradient)
            targets = None if teacher is None else DenseLogits(teacher.dense(rows))
            with torch.set_grad_enabled(needs_gradient):
                logits_CV = head(tile_CD)
                sums = distillation_sums(logits_CV, targets, labels_N[rows], weights, comparison)
            if needs_gradient:
                wanted = [tile_CD, *parameters]
                # a head may itself be computed, once for all tiles
                found = torch.autograd.grad(sums.total, wanted, retain_graph=True)
                gradient_ND[rows] = found[0]
                for gradient, more in zip(gradients, found[1:], strict=True):
                    gradient += more
            single = (sums.hard, sums.correct, sums.teacher, sums.selected, *sums.soft.values())
            return sums.total.detach(), torch.stack(single)

        tiles = [of_tile(slice(n, n + size)) for n in range(0, len(hidden_ND), size)]
        total, terms = (torch.stack(column).sum(0) for column in zip(*tiles, strict=True))
        return total, terms, [gradient_ND, *gradients]

    return _sums(compute, comparison, hidden_ND, *parameters)


_Computed = tuple[Tensor, Tensor, Sequence[Tensor | None]]
"""A total, its terms in the order of `_of_rows`, and the total's gradients."""


def _sums(compute: Callable[[bool], _Computed], comparison: Comparison, *inputs: Tensor) -> Sums:
    """Return what ``compute`` does; it is told whether any of the inputs needs a gradient."""
    total, terms = _WithGradient.apply(compute, *inputs)  # type: ignore[no-untyped-call]
    hard, correct, of_teacher, selected, *soft = terms.unbind()
    named = dict(zip(comparison.objectives, soft, strict=True))
    return Sums(total, hard, named, of_teacher, correct, selected)


class _WithGradient(torch.autograd.Function):
    """A scalar that is computed together with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[bool], _Computed], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        total, terms, gradients = compute(any(ctx.needs_input_grad))
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        return None, *(gradient * grad_total for gradient in ctx.saved_tensors)


def _numbers(weights: Weights, comparison: Comparison) -> list[float]:
    """Return what changes from step to step: hard weight, progress, two numbers per objective.

    They are the factor of its loss in the total, and its temperature.
    """
    numbers = [weights.hard, comparison.progress]
    for objective in comparison.objectives.values():
        tau = objective.temperature_at(comparison.progress)
        squared = tau**2 if objective.tau_squared else 1.0
        numbers += [weights.soft * objective.weight * squared, tau]
    return numbers


def _on(device: torch.device, numbers: list[float]) -> Sequence[Tensor]:
    """Return scalar tensors: a fused pass would take numbers of Python's for constants."""
    sent = torch.tensor(numbers, pin_memory=device.type == "cuda")  # nothing waits for it
    return sent.to(device, non_blocking=True).unbind()


def _of_rows(
    student_CV: Tensor,
    teacher_CV: Tensor | None,
    labels_C1: Tensor,
    numbers: Sequence[float | Tensor],
    rules: tuple[tuple[Divergence, ...], Revise, Select],
    gradient_CV: Tensor | None,
) -> list[Tensor]:
    """Return each term by row, (C, 1); write the gradient of the total into ``gradient_CV``.

    It is hard (p - onehot) + the sum over divergences of soft / tau d(divergence)/d(logits / tau).
    numbers: those of `_numbers`.
    """
    (hard, progress), factors, taus = numbers[:2], numbers[2::2], numbers[3::2]
    student = Distribution.of(student_CV.float())
    label_C1 = student.scores_CV.gather(1, labels_C1)
    terms = [student.log_z_C1 - label_C1, label_C1 >= student.top_C1]
    tables: list[tuple[float | Tensor, Tensor]] = [(hard, student.probabilities_CV)]
    if teacher_CV is not None:
        objectives, revise, select = rules
        rows = Rows(student, Distribution.of(teacher_CV.float()), labels_C1, progress)
        selected_C1 = select.select(rows)
        counts = 1.0 if selected_C1 is None else selected_C1.float()
        terms += [-rows.teacher.log_probability(labels_C1), torch.ones_like(label_C1) * counts]
        for objective, factor, tau in zip(objectives, factors, taus, strict=True):
            softened = rows if objective.is_plain else rows.at(tau)
            loss_C1, its_tables = objective.compare(softened.student, revise.revise(softened))
            terms.append(loss_C1 * counts)
            slope = factor / tau * counts
            tables += [(slope * each, table_CV) for each, table_CV in its_tables]
    if gradient_CV is not None:
        sum_CV = _summed(tables)
        of_label_C1 = sum_CV.gather(1, labels_C1) - hard
        gradient_CV.copy_(sum_CV)
        gradient_CV.scatter_(1, labels_C1, of_label_C1.to(gradient_CV.dtype))
    return terms


@functools.cache
def _fused() -> Callable[..., list[Tensor]]:
    return torch.compile(_of_rows)


def _summed(parts: list[tuple[float | Tensor, Tensor]]) -> Tensor:
    """Return the sum of factor * table, in place of the first; factors are numbers or (C, 1)."""
    (factor, first_CV), *others = parts
    for more, table_CV in others:
        if table_CV is first_CV:
            factor = factor + more
    first_CV.mul_(factor)
    for more, table_CV in others:
        if table_CV is not first_CV:
            if isinstance(more, Tensor):
                first_CV.addcmul_(table_CV, more)
            else:
                first_CV.add_(table_CV, alpha=more)
    return first_CV


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
