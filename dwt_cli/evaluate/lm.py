"""Held-out masked language modelling: loss, perplexity, accuracy."""

import math

import torch

from dwt_cli.corpus.batches import HeldoutBatches
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.objective.logits import hard_sums


@torch.no_grad()
def heldout_metrics(
    model: MaskedLM, heldout: HeldoutBatches, device: torch.device
) -> dict[str, float]:
    """loss: mean cross-entropy per masked token, in nats. perplexity: exp(loss). accuracy: 0..1."""
    model.eval()
    hard = torch.zeros((), device=device)
    correct = torch.zeros((), device=device)
    for held in heldout:
        batch = held.to(device)
        logits_NV = model(batch.ids_BL, batch.rows_N)
        sums = hard_sums(logits_NV, batch.labels_N)
        hard += sums.hard
        correct += sums.correct
    loss = hard.item() / heldout.num_targets
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": correct.item() / heldout.num_targets,
    }
