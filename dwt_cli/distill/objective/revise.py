"""What becomes of the teacher's distribution before the student is compared with it.

The result is a target without a gradient. Legend: C rows of one chunk, V vocabulary.
"""

import torch
from torch import Tensor

from dwt_cli.distill.objective.divergences import Distribution
from dwt_cli.distill.objective.options import ConfidenceMix, LabelRevision, Revise


def revised(
    options: Revise, t: Distribution, p: Distribution, labels_C1: Tensor, progress: float | Tensor
) -> Distribution:
    """The teacher's distribution t, revised; p is the student's, progress a share of the run."""
    if isinstance(options, LabelRevision):
        return _label_revision(options, t, labels_C1)
    if isinstance(options, ConfidenceMix):
        grown = progress / options.warmup if options.warmup else 1.0
        grown = grown.clamp(max=1.0) if isinstance(grown, Tensor) else min(grown, 1.0)
        keep_C1 = torch.ones_like(t.log_z_C1) * (1 - options.most * grown)
        return _mixed(t, keep_C1, p.scores_CV.argmax(-1, keepdim=True))
    return t


def _label_revision(options: LabelRevision, t: Distribution, labels_C1: Tensor) -> Distribution:
    """b t + (1 - b) label, b = eta / (t_max - t_label + 1) (arXiv 2404.03693, section 3).

    With eta < 1 the label ends up as the likeliest token in every row.
    """
    label_C1 = t.probabilities_CV.gather(1, labels_C1)
    highest_C1 = t.probabilities_CV.amax(-1, keepdim=True)
    return _mixed(t, options.eta / (highest_C1 - label_C1 + 1), labels_C1)


def _mixed(t: Distribution, keep_C1: Tensor, tokens_C1: Tensor) -> Distribution:
    """keep * t + (1 - keep) * one-hot(token)."""
    mixed_CV = (t.probabilities_CV * keep_C1).scatter_add(1, tokens_C1, 1 - keep_C1)
    scores_CV = mixed_CV.clamp_min(1e-38).log()
    return Distribution(
        scores_CV,
        mixed_CV,
        top_C1=scores_CV.amax(-1, keepdim=True),
        log_z_C1=scores_CV.new_zeros(keep_C1.shape),
    )
