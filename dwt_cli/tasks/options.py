"""The tasks: which positions of a block are predicted, and what follows from it.

A task is its settings and these answers. Imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import SINCE_0_2, added, at_least, between, bookkeeping
from dwt_cli.data.options import Frame, TokenizerKind
from dwt_cli.models.options import Family, Head, Predicts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dwt_cli.tasks.labelled import LabelledTask
    from dwt_cli.tasks.task import Targets


@dataclass
class Task(ABC):
    """A way to train a model: a language model on blocks of text, or a classifier.

    unit: what a loss is per. pipeline_tag: what such a model is for, in the
    hub's words. frame: the special tokens around text. special_tokens: the roles that a tokenizer
    must have a token for. Settings ``family`` and ``tokenizer`` name the models which are made and
    the tokenizer that is trained, unless the scale or the text names another.
    """

    unit: ClassVar[str]
    pipeline_tag: ClassVar[str]
    frame: ClassVar[Frame]
    special_tokens: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def head(self) -> Predicts:
        """What its models predict."""

    @property
    def loss_unit(self) -> str:
        """What its losses are in."""
        return f"nats per {self.unit}"

    @property
    def labelled(self) -> LabelledTask | None:
        """The options of a task of labelled texts; None: it is one of blocks of text."""
        return None

    @property
    def num_variants(self) -> int | None:
        """The number of sets of targets of a block; None: another one each time it is read."""
        return None

    @abstractmethod
    def num_targets(self, block_length: int) -> int:
        """Return how many targets a block has; the most where blocks differ."""

    def on_heldout(self, mask_ratio: float) -> Task:
        """Return the task of the fixed held-out set, the same for all runs; itself without masks.

        mask_ratio: of that set.
        """
        return self

    @abstractmethod
    def targets(self, tokenizer: PreTrainedTokenizerBase) -> Targets:
        """Return what makes batches of blocks in the tokens of a tokenizer."""


@dataclass
class MaskedLM(Task):
    """Masked language modelling: BERT's 80/10/10 on a fixed number of positions per block.

    num_patterns: of masks that a block has, the same for every seed, one for each epoch in turn;
    null: it is masked anew each time.
    """

    tag: ClassVar[str] = "Task"
    head: ClassVar[Head] = Head.masked
    unit: ClassVar[str] = "masked token"
    pipeline_tag: ClassVar[str] = "fill-mask"
    frame: ClassVar[Frame] = Frame("cls_token", "sep_token")
    special_tokens: ClassVar[tuple[str, ...]] = ("cls_token", "sep_token", "mask_token")

    mask_ratio: float = between(0.01, 0.9, default=0.15)
    keep_ratio: float = between(0.0, 1.0, default=0.1)
    random_ratio: float = between(0.0, 1.0, default=0.1)
    num_patterns: int | None = at_least(1, None, identity=SINCE_0_2)
    family: Family = bookkeeping(Family.modernbert)
    tokenizer: TokenizerKind = bookkeeping(TokenizerKind.wordpiece)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong across fields, a line each; setting: what the fields' begin with."""
        if self.keep_ratio + self.random_ratio > 1:
            yield (
                f"{setting}.keep_ratio={self.keep_ratio} and {setting}.random_ratio="
                f"{self.random_ratio}: together they are at most 1"
            )
        if self.keep_ratio == 1:
            yield f"{setting}.keep_ratio=1.0: every token to be predicted can be read; lower it"

    @property
    def num_variants(self) -> int | None:
        return self.num_patterns

    def num_targets(self, block_length: int) -> int:
        """Return the ratio of the positions after [CLS], at least one."""
        return max(1, round(self.mask_ratio * (block_length - 1)))

    def on_heldout(self, mask_ratio: float) -> MaskedLM:
        """Return BERT's masking of a share of its own."""
        return MaskedLM(mask_ratio)

    def targets(self, tokenizer: PreTrainedTokenizerBase) -> Targets:
        """Return the masking of a tokenizer's tokens."""
        from dwt_cli.tasks.mlm import Masking

        specials = tuple(sorted(tokenizer.all_special_ids))
        return Masking(self, len(tokenizer), tokenizer.mask_token_id, specials)


@dataclass
class CausalLM(Task):
    """Causal language modelling: every token of a block from those before it."""

    head: ClassVar[Head] = Head.causal
    unit: ClassVar[str] = "token"
    pipeline_tag: ClassVar[str] = "text-generation"
    frame: ClassVar[Frame] = Frame("bos_token", "eos_token", between="\n", lead=" ")
    special_tokens: ClassVar[tuple[str, ...]] = ("eos_token",)

    family: Family = bookkeeping(Family.qwen3)
    tokenizer: TokenizerKind = bookkeeping(TokenizerKind.bpe)
    # positions begin anew at a document's mark, and nothing before it is seen
    separate_documents: bool = added(False)

    @property
    def num_variants(self) -> int:
        return 1

    def num_targets(self, block_length: int) -> int:
        """Return the number of positions that have a next one."""
        return block_length - 1

    def targets(self, tokenizer: PreTrainedTokenizerBase) -> Targets:
        """Return the shift by one, which is the same for every tokenizer but for its mark."""
        from dwt_cli.tasks.clm import NextToken

        _, (mark_id,) = self.frame.ids(tokenizer)
        return NextToken(mark_id if self.separate_documents else None)
