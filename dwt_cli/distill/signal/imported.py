"""Rows that a server wrote: of each token of a prompt the likeliest ones there, in vLLM's shape.

Legend: L positions of a block, N target rows of a batch, K entries and the label.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, Request, TeacherSignal
from dwt_cli.distill.teacher.targets import SparseRows
from dwt_cli.tasks.task import Batch

_MOST = 1.001  # that probabilities may add up to, rounded as they are

_Numbers = NDArray[Any]


class ImportedSignal(TeacherSignal):
    """The rows of some files, all in memory, found by the tokens of a block.

    A line, or a row of a table, is a prompt: ``prompt_token_ids`` and ``prompt_logprobs``, or one
    in each of its ``choices``, as the server's answer to a completion has them. The latter has null
    for the first token, and for each other one what was likely there, it among them: id ->
    ``logprob``.

    decoded: of each file's first block the tokens and what the server says that they stand for.
    """

    def __init__(self, files: Sequence[Path], num_entries: int, vocab_size: int) -> None:
        self._num_entries, self._vocab_size = num_entries, vocab_size
        self._blocks: dict[bytes, tuple[_Numbers, _Numbers]] = {}
        self.decoded: list[tuple[int, str]] = []
        for file in files:
            looks = True
            for number, line in _read(file):
                try:
                    for prompt in _prompts(line):
                        ids_L, *rows = self._rows(prompt, looks)
                        self._blocks[ids_L.tobytes()], looks = (rows[0], rows[1]), False
                except (LookupError, TypeError, ValueError, OverflowError) as error:
                    what = f"lacks {error}" if isinstance(error, KeyError) else error
                    raise UserError(
                        f"signal.path: {file} row {number}: {what}; it is to be as vLLM has "
                        "prompt_token_ids and prompt_logprobs"
                    ) from error

    def lacking(self, batch: Batch) -> list[int]:
        """Return the blocks of a batch that no row is about."""
        return [n for n, ids_L in enumerate(batch.ids_BL) if _key(ids_L) not in self._blocks]

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert not request.features and not request.chunks
        found = [self._blocks[_key(ids_L)] for ids_L in batch.ids_BL]
        ids_NK, weights_NK = (
            torch.from_numpy(np.concatenate(each)).to(batch.labels_N.device)
            for each in zip(*found, strict=True)
        )
        assert len(ids_NK) == len(batch.labels_N), "each token but the first is a target"
        unknown_N1 = torch.zeros_like(weights_NK[:, :1])  # only its dense rows are looked at
        rows = EntryRows(ids_NK.long(), weights_NK, *[unknown_N1] * 4)
        return Answer(SparseRows(rows, self._vocab_size))

    def release(self) -> None:
        self._blocks = {}

    def _rows(self, prompt: Mapping[str, Any], looks: bool) -> tuple[_Numbers, _Numbers, _Numbers]:
        """Return a block's ids (L,), and of all but the first the entries (L - 1, K).

        looks: whether at what they stand for, too.
        """
        ids_L, positions = np.array(prompt["prompt_token_ids"], np.int64), prompt["prompt_logprobs"]
        if isinstance(positions, str):
            positions = json.loads(positions)
        if not len(ids_L) == len(positions) > 0 or positions[0]:
            raise ValueError(
                f"{len(ids_L)} tokens and {len(positions)} positions, of which the first is null"
            )
        size = (len(ids_L) - 1, self._num_entries + 1)
        ids, weights = np.zeros(size, np.int32), np.zeros(size, np.float32)
        for place, (label, position) in enumerate(zip(ids_L[1:], positions[1:], strict=True)):
            of_place = _by_id(position)
            log_p = {each: float(entry["logprob"]) for each, entry in of_place.items()}
            chosen = self._entries(int(label), log_p)
            if looks and isinstance(text := of_place[int(label)].get("decoded_token"), str):
                self.decoded.append((int(label), text))
            ids[place, : len(chosen)] = [number for number, _ in chosen]
            weights[place, : len(chosen)] = [math.exp(log_p) for _, log_p in chosen]
        if not (largest := weights.sum(-1).max(initial=0.0)) <= _MOST:
            raise ValueError(f"probabilities that add up to {largest:.3f}")
        if not 0 <= ids.min(initial=0) <= ids.max(initial=0) < self._vocab_size:
            raise ValueError(f"an id beyond the vocabulary of {self._vocab_size}")
        return ids_L, ids, weights

    def _entries(self, label: int, pairs: Mapping[int, float]) -> list[tuple[int, float]]:
        """Return the likeliest tokens with their log-probabilities, and the label's own last."""
        if label not in pairs:
            raise ValueError(f"no log-probability of its own token {label}")
        likeliest = sorted(pairs.items(), key=lambda pair: -pair[1])
        # one more may be there for the label alone
        if len(likeliest) < self._num_entries:
            raise ValueError(
                f"{len(likeliest)} tokens at a position, signal.num_entries={self._num_entries}: "
                "lower that"
            )
        chosen = likeliest[: self._num_entries]
        is_there = any(number == label for number, _ in chosen)
        return chosen if is_there else [*chosen, (label, pairs[label])]


def _key(ids_L: Tensor) -> bytes:
    return ids_L.cpu().numpy().astype(np.int64).tobytes()


def _prompts(line: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the prompts of a row: it is one, or has them as choices."""
    if "choices" not in line:
        return [line]
    if not line["choices"]:
        raise ValueError("no choices")
    return [{**line, **each} for each in line["choices"]]


def _by_id(position: Any) -> dict[int, Mapping[str, Any]]:
    """Return what is said of each token at a position; of a table a map is pairs, or has gaps."""
    pairs = position.items() if isinstance(position, Mapping) else position
    return {int(number): each for number, each in pairs if each is not None}


def _read(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a file with their numbers, from 1 on."""
    number = 1
    try:
        if file.suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            batches = ParquetFile(file).iter_batches(batch_size=16)
            for row in (row for each in batches for row in each.to_pylist()):
                yield number, row
                number += 1
            return
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield number, json.loads(line)
                number += 1
    except (ValueError, OSError) as error:  # neither JSON nor a table, or torn
        raise UserError(
            f"signal.path: {file} cannot be read from row {number} on ({error}); write it anew"
        ) from error
