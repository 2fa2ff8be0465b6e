"""The options of what is measured."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import II, MISSING

from dwt_cli.base.options import SINCE_0_2, at_least, between, bookkeeping


class Protocol(Enum):
    """How GLUE is fine-tuned; the figures are in `dwt_cli.evaluate.finetuning`."""

    sane = "sane"
    bert = "bert"
    quick = "quick"


class TunedBy(Enum):
    """The numbers that a fine-tuning trains, as in group ``tuning``, with its settings there."""

    full = "full"
    lora = "lora"
    dsee = "dsee"


@dataclass
class Glue:
    """The GLUE benchmark, by fine-tuning. tasks: by name, as in [RTE,CoLA]; empty for all nine.

    tuning: what is trained; with lora and dsee, rates are ten times the protocol's.
    """

    path: str | None = bookkeeping(None)  # a folder of TSV files; null: nyu-mll/glue of the hub
    tasks: list[str] = field(default_factory=list)
    protocol: Protocol = Protocol.sane
    tuning: TunedBy = TunedBy.full
    num_seeds: int = at_least(1, default=3)
    max_length: int = at_least(8, default=128)


@dataclass
class Blimp:
    """Minimal pairs. path: the folder of BLiMP's .jsonl files. num_pairs: of each; null is all."""

    path: str | None = bookkeeping(None)
    num_pairs: int | None = at_least(1, default=None)


@dataclass
class LocalFile:
    """A set in its official format. path: its .jsonl file. num_items: of it; null is all."""

    path: str | None = bookkeeping(None)
    num_items: int | None = at_least(1, default=None)


@dataclass
class Harness:
    """Tasks of lm-evaluation-harness, by its names.

    include_path: a folder of task YAMLs of one's own. num_fewshot: examples in each prompt; null
    is what the task says. limit: how many examples of each task; null is all.
    """

    tasks: list[str] = field(default_factory=list)
    include_path: str | None = bookkeeping(None)
    num_fewshot: int | None = at_least(0, default=None)
    limit: int | None = at_least(1, default=None)
    batch_size: int = at_least(1, default=32)


@dataclass
class Probing:
    """What a linear classifier reads from the frozen encoder, on sentences of held-out text.

    num_sentences: at most, for bigram shift. num_words: at most, for word content, with
    num_per_word sentences each.
    """

    num_sentences: int = at_least(2, default=4000)
    num_words: int = at_least(2, default=40)
    num_per_word: int = at_least(2, default=20)
    seed: int = at_least(0, default=0)


@dataclass
class Eval:
    """The held-out text, on which a training is evaluated, and what is measured after it.

    every: steps; null: at the end alone.
    mask_ratio: of its masks, which are fixed and do not follow the task's, so that runs compare.
    measures: by name (`dwt_cli.evaluate.measures`). at: at which shares of the training. Neither
    is part of a run's identity: the same trained model can be measured again and otherwise.
    """

    every: int | None = at_least(1, default=II("scale.eval_every"))
    num_blocks: int = at_least(1, default=1024)
    mask_ratio: float = between(0.01, 0.9, default=0.15, identity=SINCE_0_2)
    measures: list[str] = bookkeeping(MISSING)
    at: list[float] = between(0.0, 1.0, default=[1.0], identity=False)
    glue: Glue = field(default_factory=Glue, metadata={"identity": False})
    blimp: Blimp = field(default_factory=Blimp, metadata={"identity": False})
    probing: Probing = field(default_factory=Probing, metadata={"identity": False})
    lambada: LocalFile = field(default_factory=LocalFile, metadata={"identity": False})
    hellaswag: LocalFile = field(default_factory=LocalFile, metadata={"identity": False})
    arc: LocalFile = field(default_factory=LocalFile, metadata={"identity": False})
    harness: Harness = field(default_factory=Harness, metadata={"identity": False})

    @property
    def is_plain(self) -> bool:
        """Whether nothing is measured but what a training reports by itself."""
        return self.measures == ["lm"] and self.at == [1.0]

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for each list that names nothing; setting: what the fields' begin with."""
        for name in ("measures", "at"):
            if not getattr(self, name):
                yield f"{setting}.{name}=[]: name at least one"
