"""The stage that turns text into packed blocks, once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Data
from dwt_cli.data.source import Source
from dwt_cli.models.checkpoint import located, provenance
from dwt_cli.models.options import Checkpoint
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.tasks.options import Task


@dataclass(frozen=True)
class CorpusStage(Stage):
    """The run's text in blocks.

    tokenizer: returns the path of the one that is opened, None to train one. wanted_heldout: the
    number of held-out blocks that was asked for in so many words.
    """

    data: Data
    task: Task
    tokenizer: Callable[[], str | None]
    wanted_heldout: int | None = None
    name: str = "corpus"

    @cached_property
    def source(self) -> Source:
        """The text itself, opened."""
        return self.data.open_source()

    @cached_property
    def identity(self) -> str:
        """The fingerprint of the text, its tokens and its split."""
        path = self.tokenizer()
        return fingerprint(
            "corpus",
            corpora.BUILDER_VERSION,
            self.source.provenance(),
            replace(self.data, tokenizer=None),
            path and provenance(path),
        )

    def is_kept(self, cache: Cache) -> bool:
        return cache.holds("corpus", self.identity)

    def carry_out(self, done: Done, at: Context) -> Corpus:
        """Return the corpus, from the cache or packed now."""
        started = time.perf_counter()

        def advance(so_far: int, total: int) -> None:
            share = min(0.99, so_far / total) if total else 0.0
            at.show.update(self.name, share, "reading text")

        def make(folder: Path) -> None:
            corpora.build(
                self.source,
                self.data,
                self.task.frame,
                self.tokenizer(),
                folder,
                advance,
                at.show.say,
            )

        about = {"options": plain(self.data)}
        corpus = Corpus.open(at.prepared("corpus", self.identity, make, about))
        if self.wanted_heldout is not None and self.wanted_heldout > len(corpus.heldout):
            at.show.say(
                f"warning: eval.num_blocks={self.wanted_heldout} has no effect above the "
                f"{len(corpus.heldout)} held-out blocks there are; raise data.heldout_fraction"
            )
        report = corpus.report
        at.show.update(
            self.name,
            1.0,
            f"{report['train_tokens']:,} tokens, vocabulary {report['vocabulary']:,}, "
            f"{time.perf_counter() - started:.0f} s",
        )
        return corpus


def num_tokens(done: Mapping[str, Any], stage: str = "corpus") -> int | None:
    """Return the length of the training text; None while there is no corpus."""
    corpus: Corpus | None = done.get(stage)
    return None if corpus is None else len(corpus.train) * corpus.train.block_length


def tokenizer_path(setting: str | None, opened: Sequence[tuple[str, Checkpoint]]) -> str | None:
    """Return the tokenizer to open: the one that is set, or a checkpoint's; None to train one."""
    if setting is not None:
        return located("data.tokenizer", setting)
    return next((located(name, checkpoint.path) for name, checkpoint in opened), None)
