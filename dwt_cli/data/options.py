"""The options of the text: where it comes from, and how it becomes packed blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from omegaconf import II, MISSING

from dwt_cli.base.options import above, at_least, between, bookkeeping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dwt_cli.data.source import Source


@dataclass(frozen=True)
class Frame:
    """The special tokens around text, by their roles in a tokenizer, as ``cls_token``.

    begin: of a block, and of a sentence by itself; None: nothing. Where a tokenizer has no such
    token, that of the end stands there. end: of a paragraph, and of a sentence by itself.
    between: the characters that join a document's paragraphs, so that only the document has an
    end; None: each paragraph has one. lead: the characters before a sentence by itself.
    """

    begin: str | None
    end: str
    between: str | None = None
    lead: str = ""

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Return the ids that stand before and after text."""
        end: int = getattr(tokenizer, f"{self.end}_id")
        if self.begin is None:
            return [], [end]
        begin: int | None = getattr(tokenizer, f"{self.begin}_id")
        return [end if begin is None else begin], [end]

    def texts(self, paragraphs: Sequence[str]) -> Sequence[str]:
        """Return a document's texts that have an end each."""
        return paragraphs if self.between is None else (self.between.join(paragraphs),)


OWN = "own"
"""The tokenizer that is trained on the text, whatever tokenizer a teacher has."""


class TokenizerKind(Enum):
    """The kinds of tokenizer that can be trained on a text; the values stand in identities."""

    wordpiece = "wordpiece"
    bpe = "byte-level BPE"

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The roles that it has a token for, or can have."""
        of_bert = ("cls_token", "sep_token", "mask_token")
        return of_bert if self is TokenizerKind.wordpiece else (*of_bert, "bos_token", "eos_token")


@dataclass
class Data:
    """Text, and how it becomes packed blocks of tokens."""

    block_length: int = at_least(8, default=II("scale.block_length"))
    vocab_size: int = at_least(100, default=II("scale.vocab_size"))
    # a folder with a tokenizer, or a name on the hub; null trains one, or takes the checkpoint's;
    # own trains one in either case
    tokenizer: str | None = None
    # of one that is trained; the text's own identity has it
    tokenizer_kind: TokenizerKind = bookkeeping(II("task.tokenizer"))
    heldout_fraction: float = between(0.0001, 0.5, default=0.02)
    max_heldout_blocks: int = at_least(1, default=4096)
    max_gb: float = above(0, default=50.0)

    @property
    def named(self) -> str:
        """What messages call the text."""
        return "the text"

    def open_source(self) -> Source:
        """Return the text; `CorpusError` where there is none."""
        raise NotImplementedError


@dataclass
class Docs(Data):
    """Docstrings of the standard library and of installed packages; empty: the default ones."""

    packages: list[str] = field(default_factory=list)

    def open_source(self) -> Source:
        from dwt_cli.data import docs

        return docs.Docs(self.packages)


@dataclass
class Files(Data):
    """Files of one's own: a glob or a folder of .txt, .md, .jsonl, .json, .csv or .parquet."""

    path: str = bookkeeping(MISSING)  # the files' sums count, not where they lie
    text_column: str = "text"

    @property
    def named(self) -> str:
        return f"data.path={self.path}"

    def open_source(self) -> Source:
        from dwt_cli.data import files

        return files.Files(self.path, self.text_column)


LICENCES = {
    "HuggingFaceFW/fineweb-edu": "ODC-By 1.0",
    "Salesforce/wikitext": "CC BY-SA 3.0 and GFDL",
    "wikimedia/wikipedia": "CC BY-SA 3.0 and GFDL",
}
"""Those of the hub's data sets that choices name, as far as they are said there."""


@dataclass
class HubPart:
    """One split of a data set of the Hugging Face hub (or a folder that ``datasets`` can open)."""

    dataset: str = MISSING
    config: str | None = None
    split: str = "train"
    text_column: str = "text"


@dataclass
class Hub(Data):
    """Data sets of the hub, one after the other, every n-th sentence of them, up to a number."""

    parts: list[HubPart] = field(default_factory=list)
    every_nth_sentence: int = at_least(1, default=1)
    max_sentences: int | None = at_least(1, default=None)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong across fields, a line each; setting: what the fields' begin with."""
        if not self.parts:
            yield f"{setting}.parts=[]: name at least one data set"

    def open_source(self) -> Source:
        from dwt_cli.data import hub

        return hub.Hub(self.parts, self.every_nth_sentence, self.max_sentences)
