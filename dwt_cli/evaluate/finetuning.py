"""One fine-tuning of one model on one task, and the customary ways to do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dwt_cli.evaluate.measurement import EvaluatedModel, Say
from dwt_cli.evaluate.options import Protocol
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.classifier import make_classifier, takes_segments
from dwt_cli.models.wrapper import Classifier
from dwt_cli.tasks.classification import Classification, classification_sum
from dwt_cli.tasks.texts import BucketedBatches, Texts
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.options import AdamW, Falling, Optim, Train
from dwt_cli.training.train import train

_CHECKPOINT_EVERY = 2000  # steps: only a long fine-tuning is worth going on with
_DEV_BATCH = 64

Outputs = NDArray[np.float32]
"""The outputs of a classifier for texts (texts, classes), or of a regression (texts, 1)."""


@dataclass(frozen=True)
class FineTuning:
    """How every task is fine-tuned.

    optims: tried one after the other; where there are several, the best on the dev set counts.
    max_train, max_dev: the first so many examples, in an order drawn once; None: all of them.
    """

    epochs: int
    batch_size: int
    optims: tuple[Optim, ...]
    max_train: int | None = None
    max_dev: int | None = None


_SANE = AdamW(lr=4e-5, betas=(0.9, 0.999), eps=1e-8, warmup=0.0, decay=1.0, falling=Falling.cosine)
_BERT = replace(_SANE, warmup=0.1, decay=0.9, falling=Falling.linear)

PROTOCOLS = {
    # one setting for all tasks (Cramming, arXiv 2212.14034, section 5)
    Protocol.sane: FineTuning(5, 16, (_SANE,)),
    # BERT's own, arXiv 1810.04805, section 4.1
    Protocol.bert: FineTuning(
        3, 32, tuple(replace(_BERT, lr=lr) for lr in (5e-5, 4e-5, 3e-5, 2e-5))
    ),
    # rates for widths of some hundred; all nine tasks in minutes on two cores
    Protocol.quick: FineTuning(
        3, 32, (replace(_SANE, lr=1e-3, warmup=0.1, decay=0.9),), max_train=1000, max_dev=1000
    ),
}


@dataclass(frozen=True)
class FineTuned:
    """The outputs on each dev set, and the share of the training's positions that was padding."""

    outputs: list[Outputs]
    padding: float


def tokenised(
    tested: EvaluatedModel,
    texts: Sequence[tuple[str, ...]],
    labels: NDArray[np.int64] | NDArray[np.float32],
    max_length: int,
) -> tuple[Texts, int]:
    """Return texts or pairs with special tokens, and how many were cut to the model's length."""
    limit = min(max_length, num_positions(tested.model.config))
    columns = [list(column) for column in zip(*texts, strict=True)]
    tokenizer = tested.tokenizer
    rows = tokenizer(
        *columns, return_attention_mask=False, return_token_type_ids=True, verbose=False
    )
    long = [number for number, ids in enumerate(rows["input_ids"]) if len(ids) > limit]
    if long:
        cut = tokenizer(
            *([column[number] for number in long] for column in columns),
            truncation=True,
            max_length=limit,
            return_token_type_ids=True,
        )
        for name in ("input_ids", "token_type_ids"):
            for number, row in zip(long, cut[name], strict=True):
                rows[name][number] = row
    segments = rows["token_type_ids"] if takes_segments(tested.model) else None
    return Texts(rows["input_ids"], segments, labels, tokenizer.pad_token_id), len(long)


def fine_tune(
    tested: EvaluatedModel,
    texts: Texts,
    dev: Sequence[Texts],
    num_outputs: int,
    optim: Optim,
    protocol: FineTuning,
    seed: int,
    folder: Path,
    advance: Callable[[float, str], None],
    say: Say,
) -> FineTuned:
    """Train a classifier on a copy of the model's weights, and have it judge the dev sets.

    ``folder`` is where a training that was interrupted finds its checkpoint again.
    """
    batches = BucketedBatches(texts, protocol.batch_size, seed, "fine-tuning")
    options = Train(
        max_steps=None,
        epochs=float(protocol.epochs),
        batch_size=batches.batch_size,
        checkpoint_every=_CHECKPOINT_EVERY,
        keep_checkpoints=1,
    )
    latest: list[Outputs] = []

    def evaluate(model: Classifier) -> dict[str, float]:
        judged = [predict(model, each, tested.device) for each in dev]
        latest[:] = [outputs for outputs, _ in judged]
        return {"loss": judged[0][1]}

    train(
        Classifier(make_classifier(tested.model, num_outputs, seed), tested.dtype),
        Classification(),
        batches,
        evaluate,
        options=options,
        optim=optim,
        eval_every=None,
        seed=seed,
        checkpoints=Checkpoints(folder, f"fine-tuning {seed} {optim}", 1, say),
        observers=lambda gather: [_Progress(advance)],
        device=tested.device,
    )
    return FineTuned(latest, batches.padding)


@torch.no_grad()
def predict(model: Classifier, texts: Texts, device: torch.device) -> tuple[Outputs, float]:
    """Return the outputs in the order of the texts, in eval mode, and the mean loss."""
    model.eval()
    found: list[tuple[NDArray[np.int64], Outputs]] = []
    loss = 0.0
    for numbers in texts.by_length(_DEV_BATCH):
        batch = texts.batch(numbers).to(device)
        outputs_NC = model(*batch.inputs).logits_NV.float()
        loss += classification_sum(outputs_NC, batch.labels_N).item()
        found.append((numbers, outputs_NC.cpu().numpy()))
    numbers, outputs = (np.concatenate(part) for part in zip(*found, strict=True))
    return outputs[np.argsort(numbers)], loss / len(texts)


class _Progress:
    """An observer that passes on how far a training is."""

    def __init__(self, advance: Callable[[float, str], None]) -> None:
        self._advance = advance

    def resumed(self, step: int) -> None:
        pass

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        self._advance(progress, f"step {step}  loss {metrics['loss']:.3f}")

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        pass
