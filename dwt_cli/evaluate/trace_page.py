"""A trace as a page for people and a table for programs.

Legend: Q queries, S snapshots, B blocks.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dwt_cli.base import atomic
from dwt_cli.base.templates import filled
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.documents import documents_of
from dwt_cli.data.options import Frame
from dwt_cli.evaluate.queries import Query
from dwt_cli.evaluate.trace import bm25, debiased

PAGE, SCORES = "trace.html", "scores.csv"
BETWEEN = " ¶ "
"""Stands where a text ends inside of a block."""


class BlockTexts(NamedTuple):
    """The text of blocks, and the names of their documents; None: they were not written down."""

    texts: list[str]
    documents: list[list[str]] | None

    @classmethod
    def of(cls, corpus: Corpus, frame: Frame, blocks_B: NDArray[np.int64]) -> "BlockTexts":
        """Return those of a corpus's training blocks."""
        before, (end,) = frame.ids(corpus.tokenizer)
        texts = []
        for block_L in corpus.train[blocks_B]:
            parts = np.split(block_L, np.flatnonzero(block_L == end) + 1)
            # the first mark of a block may be that of an end
            ids = [[int(each) for each in part if each not in (*before, end)] for part in parts]
            texts.append(BETWEEN.join(filter(None, corpus.tokenizer.batch_decode(ids))))
        content = corpus.train.block_length - len(before)
        found = documents_of(corpus.train.folder, content, blocks_B.tolist())
        return cls(texts, None if found is None else [found[block] for block in blocks_B.tolist()])


@dataclass(frozen=True)
class Trace:
    """The outcome of a trace. shares: of the training, one for each snapshot, the start first.

    beta, raw: see `debiased`. num_visits: masks of a block that count. products_QSB: of gradients.
    losses_QS: of the queries.
    """

    run: str
    queries: Sequence[Query]
    shares: Sequence[float]
    beta: float
    raw: bool
    num_visits: int
    blocks_B: NDArray[np.int64]
    blocks: BlockTexts
    products_QSB: NDArray[np.float64]
    losses_QS: NDArray[np.float64]

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Scores (Q, B) by name: DDA, the gradients' product at the end alone, and BM25."""
        filled_in = [query.filled for query in self.queries]
        return {
            "dda": debiased(self.products_QSB, self.beta, self.raw),
            "product": self.products_QSB[:, -1],
            "bm25": bm25(self.blocks.texts, filled_in),
        }

    @cached_property
    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """The places (Q, B) of the blocks by each score, the highest 1; equal ones share one."""
        return {
            name: rankdata(-scores_QB, method="min", axis=1).astype(np.int64)
            for name, scores_QB in self.scores.items()
        }

    def highest(self, query: int, most: int, sign: int = 1) -> list[dict[str, Any]]:
        """Return blocks for the page, by DDA. sign: -1: the lowest ones, which speak against it."""
        scores_B = sign * self.scores["dda"][query]
        found = []
        for b in np.argsort(-scores_B, kind="stable")[:most]:
            if scores_B[b] <= 0:
                break
            row: dict[str, Any] = {"block": int(self.blocks_B[b]), "text": self.blocks.texts[b]}
            row |= {name: float(each[query, b]) for name, each in self.scores.items()}
            row["ranks"] = {name: int(each[query, b]) for name, each in self.ranks.items()}
            row["documents"] = self.blocks.documents and self.blocks.documents[b]
            found.append(row)
        return found

    def shared(self, query: int, other: str, most: int) -> int:
        """Return how many of the first blocks by DDA are among the first by another score."""
        first = [self.ranks[name][query] <= most for name in ("dda", other)]
        return int((first[0] & first[1]).sum())


def write_scores(trace: Trace, file: Path) -> None:
    """Write a line for each query and block, in order of the score."""
    tables = []
    for q in range(len(trace.queries)):
        columns: dict[str, Any] = {"query": q + 1, "block": trace.blocks_B}
        columns |= {name: scores_QB[q] for name, scores_QB in trace.scores.items()}
        for s, share in enumerate(trace.shares):
            columns[f"product_at_{share:g}"] = trace.products_QSB[q, s]
        if trace.blocks.documents is not None:
            columns["documents"] = [json.dumps(each) for each in trace.blocks.documents]
        tables.append(pd.DataFrame(columns).sort_values("dda", ascending=False, kind="stable"))
    atomic.write_text(file, pd.concat(tables).to_csv(index=False))


def write_page(trace: Trace, most: int, file: Path) -> None:
    """Write the page: for each query the blocks for and against its answer, with their texts."""
    sides = [
        [trace.highest(q, most), trace.highest(q, most, -1)] for q in range(len(trace.queries))
    ]
    page = filled(__package__, "trace.html.j2", trace=trace, sides=sides, most=most, marked=marked)
    atomic.write_text(file, page)


def marked(text: str, query: Query) -> Iterator[tuple[str, str]]:
    """Yield the parts of a text, and what each is of a query: answer, instead or nothing."""
    kinds = {query.answer.lower(): "answer", (query.instead or "").lower(): "instead"}
    words = "|".join(re.escape(word) for word in kinds if word)
    for part in re.split(rf"(?i)(?<!\w)({words})(?!\w)", text):
        yield part, kinds.get(part.lower(), "") if part else ""
