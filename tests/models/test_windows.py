"""Windows of a long block against the model asked position by position, as one would by hand.

Legend: L positions of a block, W of a window.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.windows import WindowedModel, Windows
from dwt_cli.models.wrapper import LanguageModel, Want

LENGTHS = [(9, 4, 0.5), (16, 6, 0.5), (17, 6, 0.0), (16, 15, 0.5), (23, 8, 0.9), (12, 2, 0.5)]


def read(length: int, window: int, overlap: float) -> list[list[int]]:
    """The positions of each window, one after the other: evenly, the last one to the end."""
    stride = max(1, round((window - 1) * (1 - overlap)))
    number = 1
    while 1 + (number - 1) * stride + window - 1 < length:
        number += 1
    room = length - window
    starts = [1 + k * room // max(1, number - 1) for k in range(number)]
    return [[0, *range(start, start + window - 1)] for start in starts]


def place(length: int, windows: list[list[int]], causal: bool, position: int) -> tuple[int, int]:
    """The window that a position is taught from, and its place there."""
    if position == 0:
        return 0, 0
    found = []
    for number, positions in enumerate(windows):
        if position in positions[1:]:
            here = positions.index(position, 1)
            before, after = here - 1, len(positions) - 1 - here
            found.append((before if causal else min(before, after), -number, number, here))
    _, _, number, here = max(found)
    return number, here


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "window", "overlap"), LENGTHS)
def test_every_position_is_read_where_most_is_known(
    length: int, window: int, overlap: float, causal: bool
) -> None:
    windows, by_hand = Windows(window, overlap, causal), read(length, window, overlap)
    assert windows.positions(length).tolist() == by_hand
    assert by_hand[-1][-1] == length - 1
    shared = [len(set(a[1:]) & set(b[1:])) for a, b in itertools.pairwise(by_hand)]
    assert all(each >= round((window - 1) * overlap) - 1 for each in shared)
    for position, found in enumerate(windows.answers(length).tolist()):
        assert divmod(found, window) == place(length, by_hand, causal, position)


def one_by_one(
    model: LanguageModel, ids_L: Tensor, rows: list[int], windows: Windows, documents_L: Any = None
) -> Tensor:
    """The logits of some rows, the model called for each of them with the window that it is in."""
    by_hand, found = read(len(ids_L), windows.length, windows.overlap), []
    for row in rows:
        number, here = place(len(ids_L), by_hand, windows.causal, row)
        positions = by_hand[number]
        want = Want()
        if documents_L is not None:
            of_window = [int(documents_L[each]) for each in positions]
            if documents_L[positions[1]] == documents_L[positions[1] - 1]:
                of_window[0] = of_window[1]
            want = Want(documents_BL=torch.tensor([of_window]))
        logits = model(ids_L[positions][None], torch.arange(windows.length), want).logits_NV
        found.append(logits[here])
    return torch.stack(found)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "bert", "modernbert"])
def test_rows_are_those_of_their_windows(tiny: Callable[..., Architecture], family: str) -> None:
    causal = family in ("qwen3", "gpt2")
    windows = Windows(8, 0.5, causal)
    model = make_model(tiny(family=family, max_length=8), 0, "teacher").eval()
    plain = LanguageModel(model, torch.float32)
    ids_BL = torch.randint(5, 160, (2, 19), generator=torch.Generator().manual_seed(0))
    rows = [[0, 3, 7, 8, 18], [1, 10]]
    rows_N = torch.tensor([each + 19 * block for block, of in enumerate(rows) for each in of])
    with torch.no_grad():
        expected = [
            one_by_one(plain, ids_L, of, windows) for ids_L, of in zip(ids_BL, rows, strict=True)
        ]
        whole = windows.around(model, torch.float32)
        found = whole(ids_BL, rows_N, Want(features=frozenset({("hidden", -1), ("rows", 0)})))
        torch.testing.assert_close(found.logits_NV, torch.cat(expected), rtol=1e-4, atol=1e-5)
        assert found.features.hidden[-1].shape == (2, 19, model.config.hidden_size)
        flat_ND = found.features.hidden[-1].flatten(0, 1)[rows_N]
        if family == "bert":  # without a norm after the last layer
            torch.testing.assert_close(flat_ND, found.features.rows_ND)


def test_documents_are_kept_apart_within_windows(tiny: Callable[..., Architecture]) -> None:
    windows = Windows(8, 0.5, True)
    model = make_model(tiny(family="qwen3", max_length=8), 0, "teacher").eval()
    ids_BL = torch.randint(5, 160, (1, 19), generator=torch.Generator().manual_seed(0))
    documents_L = torch.tensor([0] * 5 + [1] * 10 + [2] * 4)
    rows = list(range(18))
    want = Want(documents_BL=documents_L[None])
    with torch.no_grad():
        plain = LanguageModel(model, torch.float32)
        expected = one_by_one(plain, ids_BL[0], rows, windows, documents_L)
        found = windows.around(model, torch.float32)(ids_BL, torch.tensor(rows), want).logits_NV
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        ids_BL[0, 1:15] = 7  # what other documents say is not seen
        others = windows.around(model, torch.float32)(ids_BL, torch.tensor(rows), want).logits_NV
        torch.testing.assert_close(others[15:], found[15:], rtol=1e-4, atol=1e-5)


def test_a_block_that_fits_is_read_as_it_is(tiny: Callable[..., Architecture]) -> None:
    model = make_model(tiny(family="qwen3", max_length=19), 0, "teacher").eval()
    ids_BL, rows_N = torch.randint(5, 160, (2, 19)), torch.arange(0, 38, 2)
    whole = Windows(19, 0.5, True).around(model, torch.float32)
    assert isinstance(whole, WindowedModel)
    plain = LanguageModel(model, torch.float32)
    assert torch.equal(whole(ids_BL, rows_N).logits_NV, plain(ids_BL, rows_N).logits_NV)
