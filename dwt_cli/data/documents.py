"""The documents that packed blocks are from: their names, each with the place where it begins."""

import json
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

FILE = "documents.jsonl"
"""Beside the shards of a text: a line for each document, its first id's place in the stream of all
ids but those that every block begins with, and its name."""


def noted(documents: Iterable[tuple[str, list[list[int]]]], file: Path) -> Iterator[list[int]]:
    """Yield the ids of the documents' texts, and write their names down meanwhile.

    documents: names, and the ids of texts, which one more id follows in the stream.
    """
    place, last = 0, None
    with file.open("w", encoding="utf-8") as lines:
        for name, texts in documents:
            if name != last:  # a long document comes in pieces
                lines.write(json.dumps([place, name]) + "\n")
            last = name
            for ids in texts:
                place += len(ids) + 1
                yield ids


def documents_of(
    folder: Path, num_content: int, blocks: Sequence[int]
) -> dict[int, list[str]] | None:
    """Return the names of each block's documents, in order; None where no names were written.

    num_content: ids of a block after those that every one begins with.
    """
    file, wanted = folder / FILE, sorted(blocks)
    if not file.is_file():  # packed by version 0.2
        return None
    found: dict[int, list[str]] = {block: [] for block in wanted}
    with file.open(encoding="utf-8") as lines:
        ends = chain(map(json.loads, lines), [(sys.maxsize, "")])
        for (start, name), (end, _) in pairwise(ends):
            first = bisect_left(wanted, start // num_content)
            behind = bisect_right(wanted, (end - 1) // num_content)
            for block in wanted[first:behind]:
                found[block].append(name)
    return found
