"""Held-out masked language modelling: loss, perplexity, accuracy.

Legend: N target rows, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.evaluate.score import Score, Subject
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.task import Batch


def heldout_metrics(
    model: MaskedLM, heldout: HeldoutBatches, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """The metrics of a model, which is left in eval mode."""
    return metrics_of(_asked(model), heldout, device, ranks)


def metrics_of(
    logits: Callable[[Batch], Tensor],
    heldout: HeldoutBatches,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Of what answers a batch with logits (N, V) on its target rows.

    loss: mean cross-entropy per masked token, in nats. perplexity: exp(loss). accuracy: 0..1. Each
    rank looks at its share; all get the same figures.
    """
    targets = _targets(logits, heldout, device, ranks)
    totals = ranks.sum(torch.stack([targets.losses_N.sum(), targets.correct_N.sum()]))
    loss, accuracy = (totals / heldout.num_targets).tolist()
    return {
        "loss": loss,
        "perplexity": _perplexity(loss),
        "accuracy": accuracy,
    }


def scores(subject: Subject, heldout: HeldoutBatches) -> list[Score]:
    """The same as scores; the standard errors are over blocks, whose targets share a context."""
    model = MaskedLM(subject.model, subject.dtype).to(subject.device)
    targets = _targets(_asked(model), heldout, subject.device)
    loss, loss_error = _over_blocks(targets.losses_N, heldout.num_blocks)
    accuracy, accuracy_error = _over_blocks(targets.correct_N, heldout.num_blocks)
    perplexity = _perplexity(loss)
    count = heldout.num_targets
    return [
        Score("held-out text", "loss", loss, loss_error, count),
        Score("held-out text", "perplexity", perplexity, perplexity * loss_error, count),
        Score("held-out text", "accuracy", accuracy, accuracy_error, count),
    ]


def _asked(model: MaskedLM) -> Callable[[Batch], Tensor]:
    """The logits of a model in eval mode."""
    model.eval()
    return lambda batch: model(batch.ids_BL, batch.rows_N)


class _Targets(NamedTuple):
    """Of every masked token, in fp64: its cross-entropy, and 1 where the model has it right."""

    losses_N: Tensor
    correct_N: Tensor


@torch.no_grad()
def _targets(
    logits: Callable[[Batch], Tensor],
    heldout: HeldoutBatches,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> _Targets:
    losses, correct = [], []
    for held, counts in heldout.share(ranks.rank, ranks.size):
        batch = held.to(device)
        logits_NV = logits(batch).float()
        taken = len(batch.labels_N) if counts else 0
        losses.append(F.cross_entropy(logits_NV, batch.labels_N, reduction="none")[:taken])
        correct.append((logits_NV.argmax(-1) == batch.labels_N)[:taken])
    return _Targets(torch.cat(losses).double(), torch.cat(correct).double())


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _over_blocks(values_N: Tensor, num_blocks: int) -> tuple[float, float]:
    """Mean and standard error; every block has the same number of targets."""
    of_block = values_N.view(num_blocks, -1).mean(1)
    error = of_block.std() / num_blocks**0.5 if num_blocks > 1 else torch.tensor(math.nan)
    return of_block.mean().item(), error.item()
