"""Language modelling on held-out text: loss, perplexity, accuracy, calibration, bits per byte.

And copying within a context, of text that nothing else foretells.

Legend: B blocks, N target rows, V vocabulary, S sequences, L positions, T tokens of one copy.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.evaluate.measurement import EvaluatedModel, Score
from dwt_cli.models.wrapper import LanguageModel, Want, Wrapper
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.clm import shifted
from dwt_cli.tasks.task import Batch

_NUM_BINS, _NUM_SEQUENCES = 15, 64


def heldout_metrics(
    model: LanguageModel, heldout: HeldoutBatches, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Return the metrics of a model, which is left in eval mode."""
    return metrics_of(asked(model), heldout, device, ranks)


def metrics_of(
    logits: Callable[[Batch], Tensor],
    heldout: HeldoutBatches,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return the metrics of what answers a batch with logits (N, V) on its target rows.

    loss: mean cross-entropy per target, in nats. perplexity: exp(loss). accuracy: 0..1.
    bits_per_byte: of a causal model, over the text as it was read, in any vocabulary. Each rank
    computes its share; all get the same figures.
    """
    losses_N, correct_N, *_ = _targets(logits, heldout, device, ranks)
    totals = ranks.sum(torch.stack([losses_N.sum(), correct_N.sum()]))
    loss, accuracy = (totals / heldout.num_targets).tolist()
    found = {"loss": loss, "perplexity": _perplexity(loss), "accuracy": accuracy}
    if heldout.num_bytes:
        found["bits_per_byte"] = loss * _bits_per_byte(heldout)
    return found


def _bits_per_byte(heldout: HeldoutBatches) -> float:
    """Return what turns nats per target into bits per byte."""
    assert heldout.num_bytes
    return heldout.num_targets / heldout.num_bytes / math.log(2)


def scores(tested: EvaluatedModel, heldout: HeldoutBatches) -> list[Score]:
    """Return the same as scores; the errors are over blocks, whose targets share a context."""
    of_targets = _targets(asked(tested.language_model), heldout, tested.device)
    losses_N, correct_N, blocks_N, confidences_N = of_targets
    loss, loss_error = _over_blocks(losses_N, blocks_N)
    perplexity = _perplexity(loss)
    found: dict[str, tuple[float, float | None]] = {
        "loss": (loss, loss_error),
        "perplexity": (perplexity, perplexity * loss_error),
        "accuracy": _over_blocks(correct_N, blocks_N),
    }
    found["calibration error"] = (calibration_error(confidences_N, correct_N), None)
    if heldout.num_bytes:
        factor = _bits_per_byte(heldout)
        found["bits per byte"] = (loss * factor, loss_error * factor)
    return [Score("held-out text", name, *of, heldout.num_targets) for name, of in found.items()]


def calibration_error(confidences_N: Tensor, correct_N: Tensor) -> float:
    """Return the expected calibration error (Guo et al. 2017, 1706.04599) of the likeliest tokens.

    It is the mean over targets of |accuracy - mean confidence| in a target's bin, of 15 bins of
    equal width that are closed above. confidences_N: their probability. correct_N: 0 or 1.
    """
    bins_N = (confidences_N * _NUM_BINS).ceil().long().clamp(1, _NUM_BINS) - 1
    gaps = torch.zeros(_NUM_BINS, dtype=torch.float64, device=bins_N.device)
    gaps.index_add_(0, bins_N, (correct_N - confidences_N).double())
    return gaps.abs().sum().item() / len(bins_N)


@torch.no_grad()
def copying(tested: EvaluatedModel, block_length: int) -> Score:
    """Return by how many nats a token is likelier when a causal model reads its text again.

    Loss of the first copy minus that of the second, without each one's first token: 0 for a model
    that does not copy, at most about ln V (repeated random tokens, Olsson et al. 2022, 2209.11895).
    """
    model, saved = tested.language_model, []
    for ids_L in repeated(tested, (block_length - 1) // 2).to(tested.device):
        rows_N, labels_N = shifted(ids_L[None])
        logits_NV = model(ids_L[None], rows_N).logits_NV.float()
        first_T, second_T = F.cross_entropy(logits_NV, labels_N, reduction="none").chunk(2)
        saved.append((first_T[1:].mean() - second_T[1:].mean()).item())
    error = float(np.std(saved, ddof=1)) / len(saved) ** 0.5
    return Score("in-context copying", "loss saved", float(np.mean(saved)), error, len(saved))


def repeated(tested: EvaluatedModel, num_tokens: int) -> Tensor:
    """Return int64 ids (S, 1 + 2 T): the mark, tokens drawn uniformly, and the same once more.

    Special tokens are not drawn. The sequences are the same for every model with a tokenizer.
    """
    tokenizer, draw = tested.tokenizer, generator(seed_for("copying"))
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    ids_ST = draw.choice(ordinary, (_NUM_SEQUENCES, num_tokens))
    begin, _ = tested.task.frame.ids(tokenizer)
    marks = np.tile(begin, (_NUM_SEQUENCES, 1))
    return torch.from_numpy(np.concatenate([marks, ids_ST, ids_ST], axis=1))


def asked(model: Wrapper) -> Callable[[Any], Tensor]:
    """Return what computes a model's logits for a batch, in eval mode."""
    model.eval()
    return lambda batch: (
        model(*batch.inputs, Want(ragged=batch.ragged, documents_BL=batch.documents_BL)).logits_NV
    )


@torch.no_grad()
def _targets(
    logits: Callable[[Batch], Tensor],
    heldout: HeldoutBatches,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each target's cross-entropy, 1 where no logit is above the label's (both fp64),
    its block (int64), and the probability (fp64) of the likeliest token.
    """
    # there beforehand: what is kept between one batch's logits and the next one's splits the heap
    found_4N = torch.empty(4, heldout.num_targets, dtype=torch.float64, device=device)
    end = 0
    for held, counts in heldout.share(ranks.rank, ranks.size):
        batch = held.to(device)
        logits_NV = logits(batch).float()
        if not counts:
            continue
        losses_N = F.cross_entropy(logits_NV, batch.labels_N, reduction="none")
        label_N = logits_NV.gather(1, batch.labels_N[:, None]).squeeze(1)
        highest_N = logits_NV.amax(-1)
        blocks_N = batch.places_B3[batch.rows_N // batch.ids_BL.shape[1], 0]
        values = (losses_N, label_N >= highest_N, blocks_N, highest_N - label_N - losses_N)
        start, end = end, end + len(losses_N)
        for row_N, values_N in zip(found_4N, values, strict=True):
            row_N[start:end] = values_N
    losses_N, correct_N, blocks_N, confidences_N = found_4N[:, :end]
    return losses_N, correct_N, blocks_N.long(), confidences_N.exp()


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _over_blocks(values_N: Tensor, blocks_N: Tensor) -> tuple[float, float]:
    """Return the mean over targets and its standard error, of blocks that are drawn whole."""
    mean = values_N.mean()
    sums_B = torch.zeros(int(blocks_N.max()) + 1, dtype=values_N.dtype, device=values_N.device)
    sums_B.index_add_(0, blocks_N, values_N - mean)
    num_blocks = len(sums_B)
    if num_blocks == 1:
        return mean.item(), math.nan
    variance = sums_B.square().sum() * num_blocks / (num_blocks - 1)
    return mean.item(), variance.sqrt().item() / len(values_N)
