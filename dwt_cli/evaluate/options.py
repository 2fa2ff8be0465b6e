"""The options of what is measured."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import II, MISSING

from dwt_cli.base.options import bookkeeping


class Protocol(Enum):
    """How GLUE is fine-tuned; the figures are in `dwt_cli.evaluate.protocols`."""

    sane = "sane"
    bert = "bert"
    quick = "quick"


@dataclass
class Glue:
    """The GLUE benchmark, by fine-tuning. tasks: by name, as in [RTE,CoLA]; empty for all nine."""

    path: str | None = bookkeeping(None)  # a folder of TSV files; null: nyu-mll/glue of the hub
    tasks: list[str] = field(default_factory=list)
    protocol: Protocol = Protocol.sane
    num_seeds: int = 3
    max_length: int = 128


@dataclass
class Blimp:
    """Minimal pairs. path: the folder of BLiMP's .jsonl files. num_pairs: of each; null is all."""

    path: str | None = bookkeeping(None)
    num_pairs: int | None = None


@dataclass
class Probing:
    """What a linear classifier reads from the frozen encoder, on sentences of held-out text.

    num_sentences: at most, for bigram shift. num_words: at most, for word content, with
    num_per_word sentences each.
    """

    num_sentences: int = 4000
    num_words: int = 40
    num_per_word: int = 20
    seed: int = 0


@dataclass
class Eval:
    """The fixed masked held-out set, which a training looks at, and what is measured after it.

    measures: by name (`dwt_cli.evaluate.measures`). at: at which shares of the training. Neither
    is part of a run's identity: the same trained model can be measured again and otherwise.
    """

    every: int = II("scale.eval_every")
    num_blocks: int = 1024
    measures: list[str] = bookkeeping(MISSING)
    at: list[float] = field(default_factory=lambda: [1.0], metadata={"identity": False})
    glue: Glue = field(default_factory=Glue, metadata={"identity": False})
    blimp: Blimp = field(default_factory=Blimp, metadata={"identity": False})
    probing: Probing = field(default_factory=Probing, metadata={"identity": False})
