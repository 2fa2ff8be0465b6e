"""Held-out masked language modelling: loss, perplexity, accuracy."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dwt_cli.corpus.batches import Batch, HeldoutBatches
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.objective.logits import hard_sums


def heldout_metrics(
    model: MaskedLM, heldout: HeldoutBatches, device: torch.device
) -> dict[str, float]:
    """The metrics of a model, which is left in eval mode."""
    model.eval()
    return metrics_of(lambda batch: model(batch.ids_BL, batch.rows_N), heldout, device)


@torch.no_grad()
def metrics_of(
    logits: Callable[[Batch], Tensor], heldout: HeldoutBatches, device: torch.device
) -> dict[str, float]:
    """Of what answers a batch with logits (N, V) on its target rows.

    loss: mean cross-entropy per masked token, in nats. perplexity: exp(loss). accuracy: 0..1.
    """
    hard = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    for held in heldout:
        batch = held.to(device)
        sums = hard_sums(logits(batch), batch.labels_N)
        hard += sums.hard
        correct += sums.correct
    loss = hard.item() / heldout.num_targets
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": correct.item() / heldout.num_targets,
    }
