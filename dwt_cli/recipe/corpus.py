"""The stages that turn text into packed blocks, once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from dwt_cli.base.atomic import read_json
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import former_fingerprint, plain
from dwt_cli.data import corpus as corpora
from dwt_cli.data import tokenizer as tokenizers
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.heldout import Pieces, pieces_for
from dwt_cli.data.options import OWN, Data
from dwt_cli.data.source import Progress, Source
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.options import Checkpoint, located, provenance
from dwt_cli.recipe import across
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.tasks.options import MaskedLM, Task


@dataclass(frozen=True)
class CorpusStage(Stage):
    """The run's text in blocks.

    tokenizer: returns the path of the one that is opened, None to train one. wanted_heldout: the
    number of held-out blocks that was asked for in so many words. fewest: training blocks that the
    run needs, as it sets some apart. alike: models that have to read its tokens.
    """

    kind: ClassVar[str | None] = "corpus"
    word = "text"
    data: Data
    task: Task
    tokenizer: Callable[[], str | None] = field(compare=False)
    wanted_heldout: int | None = None
    name: str = "corpus"
    fewest: int = 1
    alike: Sequence[tuple[str, CheckpointTeacher]] = ()

    @cached_property
    def source(self) -> Source:
        """The text itself, opened."""
        return self.data.open_source()

    @cached_property
    def content(self) -> dict[str, Any]:
        """What the text is, wherever it lies."""
        return self.source.provenance()

    @cached_property
    def pieces(self) -> Pieces | None:
        """The split, if it is not by whole documents."""
        return pieces_for(self.source, self.data.heldout_fraction, self.data.block_length)

    @cached_property
    def opened_tokenizer(self) -> dict[str, Any] | None:
        """The content of the tokenizer that is opened; None if one is trained on the text."""
        path = self.tokenizer()
        return None if path is None else tokenizers.content(path)

    @property
    def trained_tokenizer(self) -> dict[str, Any]:
        """What determines one that is trained on the text."""
        return {"kind": self.data.tokenizer_kind.value, "vocab_size": self.data.vocab_size}

    @property
    def parts(self) -> dict[str, Any]:
        """The text's content, split, framing and tokens."""
        data = self.data
        return {
            "version": corpora.BUILDER_VERSION,
            "content": self.content,
            "split": [data.heldout_fraction, data.max_heldout_blocks, data.max_gb],
            "pieces": self.pieces,
            "block_length": data.block_length,
            "framing": self.task.frame,
            "tokenizer": self.opened_tokenizer or self.trained_tokenizer,
        }

    @cached_property
    def formerly(self) -> str | None:
        known = (MaskedLM.frame, MaskedLM.tokenizer)
        if (self.task.frame, self.data.tokenizer_kind) != known:
            return None
        path, data = self.tokenizer(), replace(self.data, tokenizer=None)
        parts = (corpora.BUILDER_VERSION, self.content, data, path and provenance(path))
        return former_fingerprint("corpus", *parts, *(self.pieces or ()))

    def steps_per_epoch(
        self, of: Conditions, done: Mapping[str, Any], train_tokens: int | None
    ) -> float | None:
        """Return the steps that read all of it; None while its length is not known.

        train_tokens: that length, where it is said beforehand.
        """
        corpus = done.get(self.name)
        tokens = corpus.report["train_tokens"] if corpus else train_tokens
        return None if tokens is None else tokens / of.tokens_per_step

    def known_tokens(self, cache: Cache) -> int | None:
        """Return the tokens that are trained on; None while nobody has counted them."""
        report: dict[str, int] = read_json(self.place(cache) / "report.json") or {}
        return report.get("train_tokens")

    def problems(self, of: Conditions) -> Iterator[str]:
        """Yield what can be known to be wrong before it is read whole, a line each."""
        if self.tokenizer() is None and (
            line := corpora.too_few_tokens(self.data, self.task.frame)
        ):
            yield line

    def carry_out(self, done: Done, at: Context) -> Corpus:
        """Return the corpus, from the cache or packed now."""
        started = time.perf_counter()

        def advance(so_far: int, total: int) -> None:
            share = min(0.99, so_far / total) if total else 0.0
            at.show.update(self.name, share, "reading text")

        corpus = self.packed(self.tokenizer, advance, at)
        if len(corpus.train) < self.fewest:
            raise UserError(
                f"teacher.reward=probe: the text has {len(corpus.train)} blocks to train on, and "
                f"{self.fewest} are needed; lower teacher.probe, or give more text"
            )
        for setting, model in self.alike:
            if across.own_tokens(model, corpus):
                raise UserError(
                    f"{setting}={model.path}: it reads other tokens than the text's; choose a "
                    "model with the same tokenizer"
                )
        there = len(corpus.heldout)
        if self.wanted_heldout is not None and self.wanted_heldout > there:
            at.show.say(
                f"warning: eval.num_blocks={self.wanted_heldout} has no effect above the {there} "
                "held-out blocks there are; raise data.heldout_fraction"
            )
        report, seconds = corpus.report, time.perf_counter() - started
        tokens, held = report["train_tokens"], report["heldout_tokens"]
        text = f"{tokens:,} tokens, vocabulary {report['vocabulary']:,}"
        share = f"{held / (tokens + held):.1%} held out"
        at.show.update(self.name, 1.0, f"{text}, {share}, {seconds:.0f} s")
        return corpus

    def packed(self, tokenizer: Callable[[], str | None], advance: Progress, at: Context) -> Corpus:
        """Return the text in blocks, found or made."""

        def make(folder: Path) -> None:
            of = (self.source, self.data, self.task.frame, tokenizer())
            corpora.build(*of, folder, advance, at.show.say, self.pieces)

        corpus = Corpus.open(at.prepared(self, make, {"options": plain(self.data)}))
        for line in corpus.report.get("left_out", ()):
            at.show.say(f"warning: left out: {line}")
        return corpus


@contextlib.contextmanager
def _about_the_teacher() -> Iterator[None]:
    """Let a mistake in ``teacher.data`` not be taken for one in ``data``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"teacher.data: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TeachersText(CorpusStage):
    """A teacher's own text, in the tokens of the student's; it is read if the teacher is trained.

    name: the teacher's, whose bar shows how far the reading is.
    """

    students: CorpusStage

    @cached_property
    @_about_the_teacher()
    def source(self) -> Source:
        return self.data.open_source()

    @property
    def trained_tokenizer(self) -> dict[str, Any]:
        return {"trained on": self.students.identity}

    @cached_property
    def formerly(self) -> str | None:
        if (students := self.students.formerly) is None:
            return None
        parts = (corpora.BUILDER_VERSION, self.content, self.data, students)
        return former_fingerprint("teacher's text", *parts)

    @_about_the_teacher()
    def carry_out(self, done: Done, at: Context) -> Corpus:
        """Return the student's corpus with this text to train on."""
        tokenizer = self.students.place(at.cache) / "tokenizer"

        def advance(so_far: int, total: int) -> None:
            share = so_far / total if total else 0
            at.show.update(self.name, 0.0, f"reading its text {share:.0%}")

        text = self.packed(lambda: str(tokenizer), advance, at)
        corpus: Corpus = done[self.students.name]
        return replace(corpus, train=text.train)


def tokenizer_path(setting: str | None, opened: Sequence[tuple[str, Checkpoint]]) -> str | None:
    """Return the tokenizer to open: the one that is set, or a checkpoint's; None to train one."""
    if setting == OWN:
        return None
    if setting is not None:
        return located("data.tokenizer", setting)
    return next((located(name, checkpoint.path) for name, checkpoint in opened), None)
