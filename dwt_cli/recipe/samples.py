"""A task's samples, of blocks or of labelled texts: training batches, held-out parts, metrics."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from dwt_cli.base.ranks import Ranks
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.stage import Context
from dwt_cli.tasks.batches import Beside, HeldoutBatches, TrainBatches
from dwt_cli.tasks.texts import BucketedBatches, HeldoutTexts
from dwt_cli.training.protocols import Batches


def train_batches(
    of: Conditions, corpus: Any, seed: int, purpose: str, beside: Beside | None = None
) -> Batches:
    """Return the batches that are trained on, a function of seed and purpose.

    corpus: a `Corpus`, or `LabelledTexts`. beside: see `TrainBatches`.
    """
    size = of.train.batch_size
    if of.task.labelled:
        return BucketedBatches(corpus.train, size, seed, purpose)
    targets = of.task.targets(corpus.tokenizer)
    return TrainBatches(corpus.train, targets, size, seed, purpose, beside)


def pad(model: PreTrainedModel, of: Conditions, corpus: Any) -> None:
    """Let a classifier know the token that fills texts up, by which a decoder finds their ends."""
    if of.task.labelled:
        model.config.pad_token_id = corpus.tokenizer.pad_token_id


def heldout(of: Conditions, corpus: Any, num_ranks: int) -> dict[str, Any]:
    """Return the batches of each held-out part, by its name; of blocks there is one."""
    size = of.train.num_blocks(num_ranks)
    if of.task.labelled:
        return {name: HeldoutTexts(texts, size) for name, texts in corpus.heldout.items()}
    targets = of.heldout_task.targets(corpus.tokenizer)
    return {"": HeldoutBatches(corpus.heldout, targets, of.eval.num_blocks, size)}


def measured(
    of: Conditions, corpus: Any, at: Context, ranks: Ranks
) -> Callable[[Callable[[Any], Tensor]], dict[str, float]]:
    """Return the function from what answers a batch with logits to its held-out metrics.

    ranks: those that call it, and share the batches.
    """
    from dwt_cli.evaluate import labelled, lm

    parts, device = heldout(of, corpus, at.ranks.size), at.machine.device
    if task := of.task.labelled:
        more = (device, ranks, task.with_errors)
        return lambda answers: labelled.metrics_of(answers, parts, task.metrics, *more)
    return lambda answers: lm.metrics_of(answers, parts[""], device, ranks)
