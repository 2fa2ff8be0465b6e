"""Held-out masked language modelling: loss, perplexity, accuracy."""

import math

import torch

from dwt_cli.corpus.batches import HeldoutBatches
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.objective.logits import hard_sums
from dwt_cli.ranks import ALONE, Ranks


@torch.no_grad()
def heldout_metrics(
    model: MaskedLM, heldout: HeldoutBatches, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """loss: mean cross-entropy per masked token, in nats. perplexity: exp(loss). accuracy: 0..1.

    Each rank looks at its share; all get the same figures.
    """
    model.eval()
    totals = torch.zeros(2, device=device)
    for held, counts in heldout.share(ranks.rank, ranks.size):
        batch = held.to(device)
        logits_NV = model(batch.ids_BL, batch.rows_N)
        sums = hard_sums(logits_NV, batch.labels_N)
        totals += counts * torch.stack([sums.hard, sums.correct])
    hard, correct = ranks.sum(totals).tolist()
    loss = hard / heldout.num_targets
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": correct / heldout.num_targets,
    }
