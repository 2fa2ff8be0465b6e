"""A classifier on held-out texts: its loss, and the task's metrics.

Legend: N texts, C classes (1 for a regression).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.tasks.texts import HeldoutTexts, TextBatch

Labels = NDArray[np.int64] | NDArray[np.float32]
Outputs = NDArray[np.float32]


def metrics_of(
    answers: Callable[[TextBatch], Tensor],
    heldout: Mapping[str, HeldoutTexts],
    metrics: Sequence[str],
    device: torch.device,
    ranks: Ranks = ALONE,
    with_errors: bool = False,
) -> dict[str, float]:
    """Return the metrics of what answers a batch with logits (N, C).

    loss: mean cross-entropy per text, in nats, or mean squared error, of the first part. The
    metrics are shares, in 0..1, or correlations; those of a further part end in its name. Each
    rank computes its share; all get the same figures. with_errors: also the metrics' standard
    errors over texts, by names that end in "error".
    """
    found: dict[str, float] = {}
    for name, texts in heldout.items():
        outputs, loss = outputs_of(answers, texts, device, ranks)
        found.setdefault("loss", loss)
        end = f"_{name}" if name else ""
        of_part = values(metrics, texts.labels, outputs, with_errors)
        found |= {f"{metric}{end}": value for metric, value in of_part.items()}
    return found


@torch.no_grad()
def outputs_of(
    answers: Callable[[TextBatch], Tensor],
    texts: HeldoutTexts,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[Outputs, float]:
    """Return the outputs (N, C) in the order of the texts, and the mean loss."""
    table_NC, loss = None, torch.zeros((), dtype=torch.float64, device=device)
    numbers_of = iter(texts.numbers[ranks.rank :: ranks.size])
    for held, counts in texts.share(ranks.rank, ranks.size):
        batch = held.to(device)
        outputs_NC = answers(batch).float()
        if table_NC is None:
            table_NC = outputs_NC.new_zeros(len(texts.labels), outputs_NC.shape[1])
        if counts:
            loss += _loss_sum(outputs_NC, batch.labels_N)
            table_NC[torch.from_numpy(next(numbers_of)).to(device)] = outputs_NC
    assert table_NC is not None, "no part is empty"
    # each text is one rank's, and zero on the others
    outputs = ranks.sum(table_NC).cpu().numpy()
    return outputs, ranks.sum(loss).item() / len(texts.labels)


def values(
    metrics: Sequence[str], labels: Labels, outputs: Outputs, with_errors: bool = False
) -> dict[str, float]:
    """Return metrics by name; nan where they are not defined. with_errors: see `metrics_of`."""
    from dwt_cli.evaluate.metrics import METRICS, standard_error  # here: it takes 1.6 s

    is_number = outputs.shape[1] == 1
    predictions = outputs[:, 0] if is_number else outputs.argmax(axis=1)
    found = {name: float(METRICS[name](labels, predictions)) for name in metrics}
    for name in metrics if with_errors else ():
        found[f"{name}_error"] = standard_error(METRICS[name], labels, predictions)
    return found


def _loss_sum(outputs_NC: Tensor, labels_N: Tensor) -> Tensor:
    if labels_N.is_floating_point():
        return F.mse_loss(outputs_NC[:, 0], labels_N, reduction="sum")
    return F.cross_entropy(outputs_NC, labels_N, reduction="sum")
