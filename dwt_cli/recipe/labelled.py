"""The stage that reads labelled texts, and tokenises them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.data import corpus as corpora
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.stage import Context, Done
from dwt_cli.tasks.labelled import LabelledTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dwt_cli.data.labelled import Examples
    from dwt_cli.tasks.texts import LabelledTexts, Texts

_VERSION = 1  # raise it when the same texts would give other tokens


@dataclass(frozen=True)
class LabelledStage(CorpusStage):
    """The run's labelled texts, in the tokens of the model that is opened.

    cache: where they may be found; they are kept there when the stage is carried out.
    """

    kind, word = "labelled", "labelled"
    task: LabelledTask
    cache: Cache | None = field(default=None, compare=False)

    @cached_property
    def content(self) -> dict[str, Any]:
        return self.task.source.content()

    @property
    def parts(self) -> dict[str, Any]:
        """The texts' content and tokens, and where they are cut."""
        return {
            "version": _VERSION,
            "content": self.content,
            "length": self.data.block_length,
            "tokenizer": self.opened_tokenizer,
        }

    @cached_property
    def formerly(self) -> None:
        return None

    @cached_property
    def texts(self) -> LabelledTexts:
        """The set in tokens."""
        from dwt_cli.tasks.texts import LabelledTexts

        path = self.tokenizer()
        assert path is not None, "a classifier starts from a model that has one"
        tokenizer = corpora.open_tokenizer(path, ())
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # as decoders have none
        if tokenizer.pad_token is None:
            raise UserError(
                f"tokenizer {path} has no pad_token, which the task needs; set data.tokenizer to "
                "another"
            )
        if kept := self._kept(tokenizer):
            return kept
        examples, num_cut = self.task.examples, 0

        def in_tokens(part: Examples) -> Texts:
            nonlocal num_cut
            texts, more = self._tokenised(tokenizer, part)
            num_cut += more
            return texts

        train = in_tokens(examples.train)
        heldout = {name: in_tokens(part) for name, part in examples.heldout.items()}
        sizes = ", ".join(f"{len(part):,}" for part in heldout.values())
        about = [f"{len(train):,} texts to train on, {sizes} held out: {examples.about}"]
        if num_cut:
            about.append(f"{num_cut:,} cut to {self.data.block_length} tokens (scale.block_length)")
        report = {
            "train_texts": len(train),
            "heldout_texts": sum(map(len, heldout.values())),
            "train_tokens": int(train.lengths.sum()),
            "cut_texts": num_cut,
            "classes": list(examples.names),
            "about": "; ".join([*about, *examples.remarks]),
            "remarks": examples.remarks,
        }
        return LabelledTexts(tokenizer, train, heldout, report)

    def _kept(self, tokenizer: PreTrainedTokenizerBase) -> LabelledTexts | None:
        from dwt_cli.tasks.texts import LabelledTexts

        if self.cache is None or not self.is_kept(self.cache):
            return None
        place = self.place(self.cache)
        with contextlib.suppress(atomic.Damaged):  # then they are made again
            atomic.verify(place)
            return LabelledTexts.open(place, tokenizer)
        return None

    def _tokenised(self, tokenizer: Any, part: Examples) -> tuple[Texts, int]:
        import numpy as np

        from dwt_cli.tasks.texts import Texts

        numbers = np.array(part.labels)
        labels = numbers.astype(np.float32) if self.task.is_regression else numbers.astype(np.int64)
        return Texts.tokenised(tokenizer, part.texts, labels, self.data.block_length)

    @property
    def length(self) -> float:
        """The mean length of the texts that are trained on, in tokens."""
        return float(self.texts.train.lengths.mean())

    def steps_per_epoch(
        self, of: Conditions, done: Mapping[str, Any], train_tokens: int | None
    ) -> float:
        return max(1, len(self.texts.train) // of.train.batch_size)

    def known_tokens(self, cache: Cache) -> int:
        return int(self.texts.report["train_tokens"])

    def problems(self, of: Conditions) -> Iterator[str]:
        if (there := len(self.texts.train)) < (size := of.train.batch_size):
            yield (
                f"train.batch_size={size}: there are {there} texts to train on; set "
                f"scale.batch_size={there} or less"
            )

    def carry_out(self, done: Done, at: Context) -> LabelledTexts:  # type: ignore[override]
        at.prepared(self, self.texts.save, {"options": plain(self.task)})
        at.show.update(self.name, 1.0, str(self.texts.report["about"]))
        return self.texts
