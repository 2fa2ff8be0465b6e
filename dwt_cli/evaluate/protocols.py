"""The customary ways to fine-tune on GLUE, and one for small models on a CPU."""

from dataclasses import dataclass, replace

from dwt_cli.evaluate.options import Protocol
from dwt_cli.training.options import AdamW, Falling, Optim


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
