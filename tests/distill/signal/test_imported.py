"""Rows that a server wrote, against the distributions that they are of.

Legend: L positions of a block, N target rows, V vocabulary.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.distill.signal.imported import ImportedSignal
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place

LENGTH, VOCAB_SIZE, NUM_ENTRIES = 7, 40, 5


def blocks(seed: int = 0) -> tuple[Batch, Tensor]:
    """Two blocks, and a server's log-probabilities (B, L, V) of what follows each position."""
    draw = torch.Generator().manual_seed(seed)
    ids_BL = torch.randint(0, VOCAB_SIZE, (2, LENGTH), generator=draw)
    logits = 2 * torch.randn(2, LENGTH, VOCAB_SIZE, generator=draw, dtype=torch.float64)
    places = [Place(number, 0, number) for number in range(2)]
    return NextToken().batch(ids_BL.numpy(), 0, places), logits.log_softmax(-1)


def said(ids_L: Tensor, log_p_LV: Tensor, num_entries: int) -> dict[str, Any]:
    """What the server says of a prompt: the likeliest tokens, and the one that is there."""
    positions: list[dict[int, Any] | None] = [None]
    for place in range(1, len(ids_L)):
        of_place = log_p_LV[place - 1]
        order = of_place.argsort(descending=True).tolist()
        chosen = [*order[:num_entries], int(ids_L[place])]
        positions.append(
            {
                number: {
                    "logprob": float(of_place[number]),
                    "rank": order.index(number) + 1,
                    "decoded_token": chr(65 + number),
                }
                for number in dict.fromkeys(chosen)
            }
        )
    return {"prompt_token_ids": ids_L.tolist(), "prompt_logprobs": positions}


def lines_of(num_entries: int = NUM_ENTRIES) -> tuple[Batch, Tensor, list[dict[str, Any]]]:
    batch, log_p_BLV = blocks()
    pairs = zip(batch.ids_BL, log_p_BLV, strict=True)
    return batch, log_p_BLV, [said(*pair, num_entries) for pair in pairs]


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


def as_table(folder: Path, lines: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    entry = pa.struct([("logprob", pa.float64()), ("rank", pa.int64())])
    shape = pa.schema(
        [
            ("prompt_token_ids", pa.list_(pa.int64())),
            ("prompt_logprobs", pa.list_(pa.map_(pa.int64(), entry))),
        ]
    )
    rows = [
        line
        | {
            "prompt_logprobs": [
                None if each is None else [*each.items()] for each in line["prompt_logprobs"]
            ]
        }
        for line in lines
    ]
    parquet.write_table(pa.Table.from_pylist(rows, shape), folder / "rows.parquet")
    return folder / "rows.parquet"


def as_answers(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """As a completion's answer has it, kept whole."""
    return written(folder, [{"id": "it", "choices": [{"index": 0, **each}]} for each in lines])


def as_one_answer(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """As the answer to several prompts at a time has them."""
    return written(folder, [{"choices": lines}])


@pytest.mark.parametrize("form", [written, as_table, as_answers, as_one_answer])
def test_entries_are_as_they_were_and_the_rest_is_even(
    tmp_path: Path, form: Callable[..., Path]
) -> None:
    batch, log_p_BLV, lines = lines_of()
    signal = ImportedSignal([form(tmp_path, lines)], NUM_ENTRIES, VOCAB_SIZE)
    assert signal.lacking(batch) == [] and signal.lacking(blocks(1)[0]) == [0, 1]
    found_NV = signal(batch).targets.dense()
    whole_NV = log_p_BLV[:, :-1].flatten(0, 1)
    for found_V, whole_V, label in zip(found_NV, whole_NV, batch.labels_N, strict=True):
        kept = {*whole_V.topk(NUM_ENTRIES).indices.tolist(), int(label)}
        others = [number for number in range(VOCAB_SIZE) if number not in kept]
        rest = 1 - sum(float(whole_V[number].exp()) for number in kept)
        for number in range(VOCAB_SIZE):
            is_kept = number in kept
            expected = float(whole_V[number].exp()) if is_kept else rest / len(others)
            assert float(found_V[number].exp()) == pytest.approx(expected, rel=1e-4)


def _shift(line: dict[str, Any]) -> None:
    line["prompt_logprobs"] = [None, None, *line["prompt_logprobs"][1:-1]]


def _of_others(line: dict[str, Any]) -> None:
    line["prompt_token_ids"][3] = (line["prompt_token_ids"][3] + 1) % VOCAB_SIZE


def _twice(line: dict[str, Any]) -> None:
    for each in line["prompt_logprobs"][2].values():
        each["logprob"] += 1.5


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lacks 'prompt_token_ids'": lambda line: line.pop("prompt_token_ids"),
    "lacks 'prompt_logprobs'": lambda line: line.pop("prompt_logprobs"),
    "7 tokens and 6 positions": lambda line: line["prompt_logprobs"].pop(),
    "no log-probability of its own token": _of_others,
    "not iterable": _shift,
    "add up to": _twice,
    "0 tokens and 0 positions": lambda line: line.update(prompt_token_ids=[], prompt_logprobs=[]),
    "no choices": lambda line: line.update(choices=[]),
    "lacks 'logprob'": lambda line: line["prompt_logprobs"][1].update({3: {"rank": 1}}),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_in_shape_is_refused_with_its_row(tmp_path: Path, what: str) -> None:
    _, _, lines = lines_of()
    SPOILT[what](lines[1])
    with pytest.raises(UserError, match=f"rows.jsonl row 2: .*{what}"):
        ImportedSignal([written(tmp_path, lines)], NUM_ENTRIES, VOCAB_SIZE)


def test_fewer_entries_than_are_asked_for_and_other_vocabularies(tmp_path: Path) -> None:
    _, _, lines = lines_of(NUM_ENTRIES)
    file = written(tmp_path, lines)
    with pytest.raises(UserError, match=r"row 1: \d tokens .* signal.num_entries=9: lower that"):
        ImportedSignal([file], 9, VOCAB_SIZE)
    with pytest.raises(UserError, match="an id beyond the vocabulary of 30"):
        ImportedSignal([file], NUM_ENTRIES, 30)
    file.write_text('{"prompt_token_ids": [1, 2')
    with pytest.raises(UserError, match="cannot be read from row 1 on"):
        ImportedSignal([file], NUM_ENTRIES, VOCAB_SIZE)


@pytest.mark.parametrize(("form", "row"), [(written, 2), (as_table, 1)])
def test_a_torn_file_is_one_line(tmp_path: Path, form: Callable[..., Path], row: int) -> None:
    _, _, lines = lines_of()
    file = form(tmp_path, lines)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"{file.name} cannot be read from row {row} on"):
        ImportedSignal([file], NUM_ENTRIES, VOCAB_SIZE)


def test_what_tokens_stand_for_is_kept_of_the_first_block(tmp_path: Path) -> None:
    batch, _, lines = lines_of()
    signal = ImportedSignal([written(tmp_path, lines)], NUM_ENTRIES, VOCAB_SIZE)
    labels = batch.ids_BL[0, 1:].tolist()
    assert signal.decoded == [(label, chr(65 + label)) for label in labels]
