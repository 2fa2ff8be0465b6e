"""Fine-tuning as an evaluation asks for it, and the customary ways to do it.

What trains is `dwt_cli.recipe.finetuning`, as a run of a labelled task is trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from dwt_cli.evaluate.options import Glue
from dwt_cli.evaluate.options import Protocol as ProtocolName
from dwt_cli.models.tuning import TUNINGS, Tuning
from dwt_cli.training.options import AdamW, Falling, Optim


class Tuned(NamedTuple):
    """What came of a fine-tuning: metrics of `dwt_cli.evaluate.labelled`, with their errors.

    padding: the share of the training's positions that was padding.
    """

    metrics: Mapping[str, float]
    padding: float


class FineTunings(Protocol):
    """The fine-tunings of a model on one task, which have their texts in common."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of texts of each held-out part."""

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of the texts."""

    @property
    def cut(self) -> str:
        """How many of them were cut, and to what; empty: none was."""

    def identity(self, optim: Optim, seed: int) -> str:
        """Return what determines one of them, the model included."""

    def carry_out(
        self, optim: Optim, seed: int, folder: Path, advance: Callable[[float, str], None]
    ) -> Tuned:
        """Train, or go on with what an interruption has left in the folder."""


@dataclass(frozen=True)
class FineTuning:
    """How every task is fine-tuned.

    optims: tried one after the other; where there are several, the best on the dev set counts.
    max_train, max_dev: the first so many examples, in an order drawn once; None: all of them.
    tuning: which numbers are trained.
    """

    epochs: int
    batch_size: int
    optims: tuple[Optim, ...]
    max_train: int | None = None
    max_dev: int | None = None
    tuning: Tuning = field(default_factory=Tuning)


_SANE = AdamW(lr=4e-5, betas=(0.9, 0.999), eps=1e-8, warmup=0.0, decay=1.0, falling=Falling.cosine)
_BERT = replace(_SANE, warmup=0.1, decay=0.9, falling=Falling.linear)

PROTOCOLS = {
    # one setting for all tasks (Cramming, arXiv 2212.14034, section 5)
    ProtocolName.sane: FineTuning(5, 16, (_SANE,)),
    # BERT's own, arXiv 1810.04805, section 4.1
    ProtocolName.bert: FineTuning(
        3, 32, tuple(replace(_BERT, lr=lr) for lr in (5e-5, 4e-5, 3e-5, 2e-5))
    ),
    # rates for widths of some hundred; all nine tasks in minutes on two cores
    ProtocolName.quick: FineTuning(
        3, 32, (replace(_SANE, lr=1e-3, warmup=0.1, decay=0.9),), max_train=1000, max_dev=1000
    ),
}

_FASTER = 10  # rates of adapters; of DSEE's scripts they are 2e-4 to 6e-4


def protocol_of(options: Glue) -> FineTuning:
    """Return the protocol that is asked for, of the numbers that are to be trained."""
    protocol, tuning = PROTOCOLS[options.protocol], TUNINGS[options.tuning.name]()
    if not tuning.freezes:
        return protocol
    optims = tuple(replace(optim, lr=_FASTER * optim.lr) for optim in protocol.optims)
    return replace(protocol, optims=optims, tuning=tuning)
