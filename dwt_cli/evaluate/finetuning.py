"""One fine-tuning of one model on one task, and the customary ways to do it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dwt_cli.evaluate.labelled import outputs_of
from dwt_cli.evaluate.lm import asked
from dwt_cli.evaluate.measurement import EvaluatedModel, Say
from dwt_cli.evaluate.options import Protocol
from dwt_cli.models.making import make_classifier
from dwt_cli.models.wrapper import Classifier
from dwt_cli.tasks.classification import Classification, Outputs
from dwt_cli.tasks.texts import BucketedBatches, HeldoutTexts, Texts
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.loop import Training, train
from dwt_cli.training.options import AdamW, Falling, Optim, Train
from dwt_cli.training.protocols import Numbers, Observer

_HELDOUT_BATCH = 64
_CHECKPOINT_EVERY = 2000  # steps: only a long fine-tuning is worth going on with


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
) -> tuple[list[Outputs], float]:
    """Train a classifier on a copy of the model's weights, and have it judge the dev sets.

    Returns the outputs on each, and the share of the training's positions that was padding.
    ``folder`` is where a training that was interrupted finds its checkpoint again.
    """
    batches = BucketedBatches(texts, protocol.batch_size, seed, "fine-tuning")
    options = Train(
        max_steps=None,
        epochs=float(protocol.epochs),
        batch_size=batches.batch_size,
        micro_batch_size=None,
        checkpoint_every=_CHECKPOINT_EVERY,
        keep_checkpoints=1,
    )
    heldout = [HeldoutTexts(each, _HELDOUT_BATCH) for each in dev]
    latest: list[Outputs] = []

    def evaluate(model: Classifier) -> dict[str, float]:
        judged = [outputs_of(asked(model), texts, tested.device) for texts in heldout]
        latest[:] = [outputs for outputs, _ in judged]
        return {"loss": judged[0][1]}

    training = Training(
        model=Classifier(make_classifier(tested.model, num_outputs, seed), tested.dtype),
        loss=Classification(),
        batches=batches,
        optim=optim,
        options=options,
        evaluate=evaluate,
        eval_every=None,
        checkpoints=Checkpoints(folder, f"fine-tuning {seed} {optim}", 1, say),
        device=tested.device,
        seed=seed,
    )
    train(training, lambda gather: [_Progress(advance)])
    return latest, batches.padding


class _Progress(Observer):
    """An observer that passes on how far a training is."""

    def __init__(self, advance: Callable[[float, str], None]) -> None:
        self._advance = advance

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        self._advance(progress, f"step {step}  loss {metrics['loss']:.3f}")
