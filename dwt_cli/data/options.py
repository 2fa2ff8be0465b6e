"""The options of the text: where it comes from, and how it becomes packed blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omegaconf import II, MISSING

from dwt_cli.base.options import bookkeeping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Frame:
    """The special tokens around text, by their roles in a tokenizer, as ``cls_token``.

    begin: of a block, and of a sentence by itself; None: nothing. end: of a paragraph, and of a
    sentence by itself.
    """

    begin: str | None
    end: str

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Return the ids that stand before and after text."""
        before = [] if self.begin is None else [getattr(tokenizer, f"{self.begin}_id")]
        return before, [getattr(tokenizer, f"{self.end}_id")]


@dataclass
class Data:
    """Text, and how it becomes packed blocks of tokens."""

    block_length: int = II("scale.block_length")
    vocab_size: int = II("scale.vocab_size")
    # a folder with a tokenizer, or a name on the hub; null trains one, or takes the checkpoint's
    tokenizer: str | None = None
    heldout_fraction: float = 0.02
    max_heldout_blocks: int = 4096
    max_gb: float = 50.0


@dataclass
class Docs(Data):
    """Docstrings of the standard library and of installed packages; empty: the default ones."""

    packages: list[str] = field(default_factory=list)


@dataclass
class Files(Data):
    """Files of one's own: a glob or a folder of .txt, .jsonl, .parquet, .gz, .zst."""

    path: str = bookkeeping(MISSING)  # the files' sums count, not where they lie
    text_column: str = "text"


@dataclass
class HubPart:
    """One data set of the Hugging Face hub (or a local folder that ``datasets`` can open)."""

    dataset: str = MISSING
    config: str | None = None
    split: str = "train"
    text_column: str = "text"


@dataclass
class Hub(Data):
    """Data sets of the hub, one after the other, every n-th sentence of them, up to a number."""

    parts: list[HubPart] = field(default_factory=list)
    every_nth_sentence: int = 1
    max_sentences: int | None = None
