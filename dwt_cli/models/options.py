"""The options of a model: the shape of one that is made here, the place of one that exists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import II, MISSING

from dwt_cli.base import network
from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError
from dwt_cli.base.options import SINCE_0_2, at_least, between, bookkeeping

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    Started = tuple[PreTrainedModel, list[str]]

STUDENT_PATH = "student.path"


class Head(Enum):
    """What a language model predicts: masked tokens, or each next one."""

    masked = "masked"
    causal = "causal"

    @property
    def kind(self) -> str:
        """What such a model is."""
        return f"{self.name} language model"

    @property
    def tag(self) -> str:
        """The same on the hub."""
        return f"{self.name}-lm"

    @property
    def task(self) -> str:
        """The setting that trains such a model."""
        return f"task={self.name[0]}lm"


@dataclass(frozen=True)
class Classes:
    """What a classifier predicts: one of the classes of these names; of none, a number."""

    name: ClassVar[str] = "classifier"
    kind: ClassVar[str] = "text classifier"
    tag: ClassVar[str] = "text-classifier"

    names: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """The outputs for a text: one for each class, or the number."""
        return len(self.names) or 1


Predicts = Head | Classes
"""What the head of a model predicts."""


class Family(Enum):
    """The families of which models are made here; see `dwt_cli.models.families`."""

    bert = "bert"
    modernbert = "modernbert"
    qwen3 = "qwen3"
    llama = "llama"
    gpt2 = "gpt2"
    qwen2 = "qwen2"
    olmo2 = "olmo2"
    gemma2 = "gemma2"
    gemma3_text = "gemma3_text"

    @property
    def has_rotary_positions(self) -> bool:
        """Whether positions turn pairs of a head's places."""
        return self is Family.modernbert or self.has_grouped_heads

    @property
    def has_grouped_heads(self) -> bool:
        """Whether several heads may share keys and values."""
        return self.predicts is Head.causal and self is not Family.gpt2

    @property
    def predicts(self) -> Head:
        """What its models predict."""
        return Head.masked if self in (Family.bert, Family.modernbert) else Head.causal


LARGEST_SIZE, MOST_LAYERS = 1 << 16, 1000


@dataclass
class Architecture:
    """The size of a language model that is made here."""

    num_layers: int = between(1, MOST_LAYERS)
    family: Family = II("scale.family")
    width: int = between(1, LARGEST_SIZE, default=II("scale.width"))
    num_heads: int = between(1, LARGEST_SIZE, default=II("scale.num_heads"))
    mlp_width: int = between(1, LARGEST_SIZE, default=II("scale.mlp_width"))
    vocab_size: int = II("scale.vocab_size")
    max_length: int = II("scale.block_length")
    dropout: float = between(0.0, 0.9, default=0.0)
    # of keys and values, which groups of heads share; null: as many as heads
    num_kv_heads: int | None = at_least(1, default=None, identity=SINCE_0_2)

    def config(self, setting: str, head: Predicts) -> PreTrainedConfig:
        """Return the configuration of the model."""
        from dwt_cli.models.making import config_of

        return config_of(self)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong across fields, a line each; setting: what the fields' begin with."""
        if self.width % self.num_heads:
            multiple = -(-self.width // self.num_heads) * self.num_heads
            yield (
                f"{setting}.width={self.width} does not divide into {setting}.num_heads="
                f"{self.num_heads}: choose a multiple, as in {setting}.width={multiple} "
                "(scale.width for all models)"
            )
        elif self.family.has_rotary_positions and self.width // self.num_heads % 2:
            yield (
                f"{setting}.width={self.width} over {setting}.num_heads={self.num_heads}: rotary "
                "positions need an even width per head; choose another scale.num_heads"
            )
        if (shared := self.num_kv_heads) and not self.family.has_grouped_heads:
            yield (
                f"{setting}.num_kv_heads={shared}: a {self.family.name} has keys and values for "
                f"each head; leave it out, or choose {setting}.family=qwen3 or llama"
            )
        elif shared and self.num_heads % shared:
            yield (
                f"{setting}.num_kv_heads={shared} does not divide {setting}.num_heads="
                f"{self.num_heads}: choose a divisor"
            )


@dataclass
class Checkpoint:
    """A language model in the hub's format, from a folder or by name."""

    path: str = bookkeeping(MISSING)  # a folder's sums count, not where it lies
    revision: str | None = None
    trust_remote_code: bool = False

    def config(self, setting: str, head: Predicts) -> PreTrainedConfig:
        """Return the model's configuration. setting: whose it is; of a teacher logits are enough.

        Raises `UserError` for a model that cannot be used.
        """
        from dwt_cli.models.checkpoint import open_config

        return open_config(path_setting(setting), self, head, any_family=setting != "student")

    def reads(self, block_length: int) -> int:
        """Return how much of a block it is given at once, as far as settings say."""
        return block_length


@dataclass
class Student(ABC):
    """The model that is wanted."""

    @abstractmethod
    def start(self, seed: int, head: Predicts, config: PreTrainedConfig | None = None) -> Started:
        """Return the student, in fp32, without a teacher's weights, and its head's that are fresh.

        Of these there are none in a model that is made here: all of it is. config: where it is
        made, if its configuration is not `config`.
        """

    @abstractmethod
    def config(self, setting: str, head: Predicts) -> PreTrainedConfig:
        """Return its configuration, which says its shapes. setting: "student"."""

    def checkpoints(self) -> Iterator[tuple[str, Checkpoint]]:
        """Yield the model that it is opened from, if it is, with the setting that names it."""
        yield from ()


@dataclass
class MadeStudent(Architecture, Student):
    """A student that is made here, with fresh weights or those that remap gives it."""

    def start(self, seed: int, head: Predicts, config: PreTrainedConfig | None = None) -> Started:
        from dwt_cli.models.making import make_model

        return make_model(self, seed, "student", config), []


@dataclass
class CheckpointStudent(Checkpoint, Student):
    """A student that exists and is trained on, with or without a teacher.

    An encoder without a head gets a fresh one.
    """

    def start(self, seed: int, head: Predicts, config: PreTrainedConfig | None = None) -> Started:
        import torch

        from dwt_cli.base.randomness import seed_for
        from dwt_cli.models.checkpoint import open_classifier, open_model

        if isinstance(head, Classes):
            return open_classifier(STUDENT_PATH, self, head, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "student", "weights"))
            return open_model(STUDENT_PATH, self, head, needs_head=False)

    def checkpoints(self) -> Iterator[tuple[str, Checkpoint]]:
        yield STUDENT_PATH, self


def path_setting(name: str) -> str:
    """Return the setting that has a model's path; name: "student", or as of `Teacher.each`."""
    return f"{name}.path" if name in ("student", "teacher") else "teacher.members"


def located(setting: str, path: str) -> str:
    """Return what to open for a path: the folder, or the name on the hub.

    A run's folder stands for the model in it. Raises `UserError` for a file, and for a path that no
    hub name looks like and nothing is at.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return str(_with_model(place))
    if place.exists():
        raise UserError(f"{setting}={path} cannot be opened: it is a file; give its folder")
    is_below = "/" in path and place.parent.is_dir()  # as runs/NAME, which a hub name could be too
    if is_below or path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        raise UserError(
            f"{setting}={path} cannot be opened: there is no such folder (looked in "
            f"{Path.cwd()}); give another, or a name on the hub"
        )
    network.notice_absence()
    return path


def _with_model(folder: Path) -> Path:
    inner = folder / "model"
    is_around = (inner / "config.json").is_file() and not (folder / "config.json").is_file()
    return inner if is_around else folder


def provenance(path: str, revision: str | None = None) -> dict[str, Any]:
    """Return what determines a checkpoint or a tokenizer: a folder's files, or a hub name."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path, "revision": revision}
    suffixes = (".json", ".txt", ".model", ".safetensors", ".bin")
    files = sorted(file for file in _with_model(folder).iterdir() if file.suffix in suffixes)
    return {"files": {file.name: file_sum(file) for file in files}}
