"""The options of a model: the shape of one that is made here, the place of one that exists."""

from dataclasses import dataclass
from enum import Enum

from omegaconf import II, MISSING

from dwt_cli.base.options import bookkeeping


class Head(Enum):
    """What a language model predicts: masked tokens, or each next one."""

    masked = "masked"
    causal = "causal"


class Family(Enum):
    """The shape of a model that is made here."""

    bert = "bert"
    modernbert = "modernbert"


@dataclass
class Architecture:
    """The size of a masked language model that is made here."""

    num_layers: int = MISSING
    family: Family = II("scale.family")
    width: int = II("scale.width")
    num_heads: int = II("scale.num_heads")
    mlp_width: int = II("scale.mlp_width")
    vocab_size: int = II("scale.vocab_size")
    max_length: int = II("scale.block_length")
    dropout: float = 0.0


@dataclass
class Checkpoint:
    """A masked language model in the hub's format, from a folder or by name."""

    path: str = bookkeeping(MISSING)  # a folder's sums count, not where it lies
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass
class Student:
    """The model that is wanted."""


@dataclass
class MadeStudent(Architecture, Student):
    """A student that is made here, with fresh weights or those that remap gives it."""


@dataclass
class CheckpointStudent(Checkpoint, Student):
    """A student that exists and is trained on, with or without a teacher."""
