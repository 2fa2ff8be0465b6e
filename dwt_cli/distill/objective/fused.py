"""Equations 1 to 3 of the paper (arXiv 2305.18239, section 2) over target rows, and relatives.

Head, cross-entropy and divergences are one operation. Losses are sums over rows with known weights:
the gradient of a tile's logits is known as soon as its loss is, and becomes that of states and head
before the next tile. Of logits there is never more than a tile of each model. A tile has all of the
vocabulary: every divergence, the forward KL too, needs the normalisers of whole rows on both sides,
without which logits would be computed twice; TopK, the revisions and the selections look for the
likeliest token of a row. Softmax and sums are in fp32 whatever the models compute in.
Legend: N target rows, V vocabulary, D width, C rows of one tile, or of a chunk of it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.base import Distribution, Divergence, EntryRows, Rows
from dwt_cli.distill.objective.revise import NoRevision, Revise
from dwt_cli.distill.objective.select import AllRows, Select
from dwt_cli.distill.objective.shared import Shares
from dwt_cli.distill.teacher.targets import SoftTargets
from dwt_cli.models.wrapper import OutputLayer

TILE_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28}  # of a tile's logits, of each model
CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}  # on a CPU a chunk's fp32 rows stay in the cache
FUSED_BYTES = {"cpu": 1 << 25, "cuda": 1 << 28}  # of a fused pass, which makes fewer tables
_SUMMED_ENTRIES = 1 << 18  # of the head's gradient at a time, where a product is rounded


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


class _Rules(NamedTuple):
    """What a call has beside tensors and numbers; form: what makes the teacher's targets."""

    form: Callable[..., SoftTargets] | None
    objectives: tuple[Divergence, ...]
    revise: Revise
    select: Select
    compiled: bool


_RULES: dict[str, _Rules] = {}
"""By their text: an operator of torch takes no objects."""


class DistillationSums:
    """alpha_hard * hard + alpha_soft * sum of weight * soft (eq. 3), and its terms, of a student.

    teacher: gets no gradient; None: the soft terms are zero. labels_N: int64. compiled: the pass
    over rows that need a gradient is fused by torch.compile.
    """

    def __init__(
        self,
        teacher: SoftTargets | None,
        labels_N: Tensor,
        weights: Weights,
        comparison: Comparison,
        *,
        compiled: bool = False,
    ) -> None:
        form, self._teacher = (None, []) if teacher is None else teacher.parts
        trained = [part for part in self._teacher if part is not None and part.requires_grad]
        assert not trained, "eq. 3 trains no teacher: name its parts"
        self._labels_N, self._names = labels_N, tuple(comparison.objectives)
        divergences = tuple(comparison.objectives.values())
        rules = _Rules(form, divergences, comparison.revise, comparison.select, compiled)
        self._rules = str(rules)
        _RULES.setdefault(self._rules, rules)
        self._numbers = _numbers(weights, comparison)
        self._sent = torch.tensor(self._numbers, dtype=torch.float64)

    def __call__(self, states_ND: Tensor, head: OutputLayer | None = None) -> Sums:
        """Return the sums of the student with these states and this head.

        states_ND: of any float type. head: None: the states are logits (N, V). Only gradients that
        are asked for are formed, here and once: a second backward pass through the same sums is
        refused. Under torch.compile this is one operator of the graph.
        """
        weight_VD, bias_V, cap, dtype = head or (None, None, None, None)
        inputs = (states_ND, weight_VD, bias_V)
        recorded = torch.is_grad_enabled()
        needs = [recorded and each is not None and each.requires_grad for each in inputs]
        given = (*inputs, cap, dtype, needs)
        total, terms = _WithGradient.apply(self, *given)  # type: ignore[no-untyped-call]
        hard, correct, of_teacher, selected, *soft = terms.unbind()
        named = dict(zip(self._names, soft, strict=True))
        return Sums(total, hard, named, of_teacher, correct, selected)

    def compute(self, *given: Any) -> list[Tensor]:
        """Return what `_tiles` does."""
        given = (*given, self._rules, self._teacher, self._labels_N)
        if torch.compiler.is_compiling():
            found: list[Tensor] = torch.ops.dwt.eq3(self._sent, *given)
            return found
        return _tiles(self._numbers, *given)


class _WithGradient(torch.autograd.Function):
    """A scalar that is computed together with its gradient."""

    @staticmethod
    def forward(ctx: Any, sums: DistillationSums, *given: Any) -> tuple[Tensor, Tensor]:
        total, terms, *gradients = sums.compute(*given)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(terms)
        ctx.needs = given[-1]
        return total, terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        gradients = iter(ctx.saved_tensors)
        # in place: of a large head there is no room for two
        scaled = [next(gradients).mul_(grad_total) if needed else None for needed in ctx.needs]
        return None, *scaled, None, None, None


def _tiles(
    numbers: Sequence[float],
    states_ND: Tensor,
    weight_VD: Tensor | None,
    bias_V: Tensor | None,
    cap: float | None,
    dtype: torch.dtype | None,
    needs: Sequence[bool],
    rules_key: str,
    teacher: Sequence[Tensor | None],
    labels_N: Tensor,
) -> list[Tensor]:
    """Return total, terms in the order of `_of_rows`, and the gradients that are needed.

    numbers: those of `_numbers`. dtype: of the products. needs: of states, weight and bias.
    """
    rules = _RULES[rules_key]
    targets = rules.form(*teacher) if rules.form else None
    device, dtype = states_ND.device, dtype or states_ND.dtype
    vocab_size = states_ND.shape[1] if weight_VD is None else len(weight_VD)
    fused = rules.compiled and any(needs)
    of_rows = _fused() if fused else _of_rows
    now = _on(device, numbers) if fused else numbers
    tile = max(1, TILE_BYTES[device.type] // (dtype.itemsize * vocab_size))
    chunk = max(1, (FUSED_BYTES if fused else CHUNK_BYTES)[device.type] // (4 * vocab_size))
    head = None if weight_VD is None else OutputLayer(weight_VD, bias_V).to(dtype)
    gradient_ND = torch.empty_like(states_ND) if needs[0] else None
    shares = None
    if targets is not None and targets.centroids is not None:
        shares = Shares(targets.centroids, head and head._replace(cap=cap))
    of_weight_VD, of_bias_V = (
        torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32))
        if each is not None and needed
        else None
        for each, needed in zip((weight_VD, bias_V), needs[1:], strict=True)
    )
    of_chunks: list[list[Tensor]] = []
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(states_ND), tile):
            rows = slice(start, start + tile)
            states_CD, labels_C1 = states_ND[rows].to(dtype), labels_N[rows, None]
            logits_CV = states_CD.clone() if head is None else head(states_CD)
            answer = None if targets is None else targets.tile(rows)
            if shares and isinstance(answer, EntryRows):
                answer = shares.scored(answer, states_CD)
            first_of_tile = len(of_chunks)
            for first in range(0, len(logits_CV), chunk):
                part = slice(first, first + chunk)
                theirs = answer.part(part) if isinstance(answer, EntryRows) else answer
                theirs = theirs[part] if isinstance(theirs, Tensor) else theirs
                given = (logits_CV[part], theirs, labels_C1[part], now, rules, cap, any(needs))
                of_chunks.append(of_rows(*given))
            # where the logits were there is their gradient now
            if gradient_ND is not None:
                gradient_ND[rows] = logits_CV if head is None else logits_CV @ head.weight_VD
            if of_weight_VD is not None:
                _add_product(of_weight_VD, logits_CV, states_CD)
            if of_bias_V is not None:
                of_bias_V += logits_CV.sum(0, dtype=of_bias_V.dtype)
            if shares and any(needs) and isinstance(answer, EntryRows):
                slopes_C1 = torch.cat([each.pop() for each in of_chunks[first_of_tile:]])
                of_states_CD = None if gradient_ND is None else gradient_ND[rows]
                shares.subtract(answer, slopes_C1, states_CD, of_states_CD)
            del logits_CV, answer, theirs, given  # before there are those of the next tile
    if shares:
        shares.subtract_from_head(of_weight_VD, of_bias_V)
    terms = torch.zeros(4 + len(rules.objectives), device=device, dtype=torch.float32)
    if of_chunks:
        # at once over all chunks: many small operations add up
        columns = [torch.cat(column) for column in zip(*of_chunks, strict=True)]
        sums = torch.stack([column.sum(dtype=torch.float32) for column in columns])
        terms[: len(sums)] = sums
    total = numbers[0] * terms[0]
    for factor, loss in zip(numbers[2::2], terms[4:], strict=True):
        total = total + factor * loss
    found = (gradient_ND, of_weight_VD, of_bias_V)
    inputs = (states_ND, weight_VD, bias_V)
    wanted = zip(found, inputs, strict=True)
    return [total, terms, *(g.to(x.dtype) for g, x in wanted if g is not None and x is not None)]


def _add_product(sum_VD: Tensor, gradient_CV: Tensor, states_CD: Tensor) -> None:
    """Add gradient^T states; a product that is rounded goes through the cache, piece by piece."""
    if sum_VD.dtype == gradient_CV.dtype:
        sum_VD.addmm_(gradient_CV.T, states_CD)
        return
    size = max(1, _SUMMED_ENTRIES // states_CD.shape[1])
    pieces = zip(sum_VD.split(size), gradient_CV.split(size, dim=1), strict=True)
    for piece_VD, its_CV in pieces:
        piece_VD += its_CV.T @ states_CD


torch.library.define(
    "dwt::eq3",
    "(Tensor numbers, Tensor states, Tensor? weight, Tensor? bias, float? cap, ScalarType? dtype, "
    "bool[] needs, str rules, Tensor?[] teacher, Tensor labels) -> Tensor[]",
)


@torch.library.impl("dwt::eq3", "CompositeExplicitAutograd")
def _eq3(numbers: Tensor, *others: Any) -> list[Tensor]:
    """Carry out what stands in a compiled graph."""
    return _tiles(numbers.tolist(), *others)


@torch.library.register_fake("dwt::eq3")
def _eq3_shapes(*given: Any) -> list[Tensor]:
    numbers, inputs, needs = given[0], given[1:4], given[6]
    terms = inputs[0].new_empty(3 + len(numbers) // 2, dtype=torch.float32)
    wanted = zip(inputs, needs, strict=True)
    return [terms.new_empty(()), terms, *(torch.empty_like(x) for x, needed in wanted if needed)]


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


def _on(device: torch.device, numbers: Sequence[float]) -> Sequence[Tensor]:
    """Return scalar tensors: a fused pass would take numbers of Python's for constants."""
    sent = torch.tensor(
        numbers, dtype=torch.float32, pin_memory=device.type == "cuda"
    )  # nothing waits for it
    return sent.to(device, non_blocking=True).unbind()


def _of_rows(
    student_CV: Tensor,
    teacher: Tensor | EntryRows | None,
    labels_C1: Tensor,
    numbers: Sequence[float | Tensor],
    rules: _Rules,
    cap: float | None,
    needs_gradient: bool,
) -> list[Tensor]:
    """Return each term by row, (C, 1); write the total's gradient in the place of the logits.

    Of a teacher with centroids the slopes of `Shares` come last, with the gradient.

    It is hard (p - onehot) + the sum over divergences of soft / tau d(divergence)/d(logits / tau).
    numbers: those of `_numbers`. cap: of the student's logits, which come without it.
    """
    (hard, progress), factors, taus = numbers[:2], numbers[2::2], numbers[3::2]
    scores_CV = student_CV.float()
    student = Distribution.of(scores_CV if cap is None else (scores_CV / cap).tanh_().mul_(cap))
    label_C1 = student.scores_CV.gather(1, labels_C1)
    terms = [student.log_z_C1 - label_C1, label_C1 >= student.top_C1]
    tables: list[tuple[float | Tensor, Tensor]] = [(hard, student.probabilities_CV)]
    entries: list[tuple[Tensor, Tensor]] = []
    if teacher is not None:
        theirs = Distribution.of(teacher.float()) if isinstance(teacher, Tensor) else teacher
        rows = Rows(student, theirs, labels_C1, progress)
        selected_C1 = rules.select.select(rows)
        counts = 1.0 if selected_C1 is None else selected_C1.float()
        terms += [-rows.teacher.log_probability(labels_C1), torch.ones_like(label_C1) * counts]
        for objective, factor, tau in zip(rules.objectives, factors, taus, strict=True):
            softened = rows if objective.is_plain else rows.at(tau)
            slope = factor / tau * counts
            if isinstance(theirs, EntryRows):
                at_tau = theirs if objective.is_plain else theirs.at(tau)
                loss_C1, gradient = objective.compare_entries(softened.student, at_tau)
                tables.append((slope * gradient[0], softened.student.probabilities_CV))
                entries.append((theirs.ids_CK[:, : gradient[1].shape[1]], slope * gradient[1]))
            else:
                revised = rules.revise.revise(softened)
                loss_C1, its_tables = objective.compare(softened.student, revised)
                tables += [(slope * each, table_CV) for each, table_CV in its_tables]
            terms.append(loss_C1 * counts)
        if needs_gradient and isinstance(theirs, EntryRows) and theirs.shares_C1 is not None:
            slopes = sum(f / tau for f, tau in zip(factors, taus, strict=True))
            terms.append(slopes * counts * theirs.shares_C1)
    if needs_gradient:
        sum_CV = _summed(tables)
        for ids_CK, added_CK in entries:
            sum_CV.scatter_add_(1, ids_CK, added_CK)
        of_label_C1 = sum_CV.gather(1, labels_C1) - hard
        if cap is not None:
            sum_CV.mul_(1 - (student.scores_CV / cap).square_())
            of_label_C1 *= 1 - (label_C1 / cap) ** 2
        student_CV.copy_(sum_CV)
        student_CV.scatter_(1, labels_C1, of_label_C1.to(student_CV.dtype))
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
