"""The places where tokens end together, against what is read up to each of them."""

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from dwt_cli.data.spans import Spans
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import ids_of
from tests.vocabularies import ODD, TEXTS, byte_level, masked_bytes, metaspace, pieces

Make = Callable[[], PreTrainedTokenizerFast]


def finer() -> PreTrainedTokenizerFast:
    return byte_level(280)


PAIRS = [(byte_level, finer), (byte_level, pieces), (byte_level, metaspace)]
BOTH_WAYS = [*PAIRS, *((theirs, ours) for ours, theirs in PAIRS)]


def spans(ours: Make, theirs: Make, max_length: int = 1000) -> Spans:
    return Spans(Surfaces(ours()), Surfaces(theirs()), max_length)


def letters(text: str) -> str:
    """Return what every tokenizer reads: no spaces, accents or capitals."""
    plain = unicodedata.normalize("NFD", "".join(text.split()).lower())
    return "".join(each for each in plain if not unicodedata.combining(each))


def read_up_to(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """Return after each token the letters so far; "?" in the middle of a character."""
    texts = [tokenizer.decode(ids[: end + 1]) for end in range(len(ids))]
    return [letters(text) if "\ufffd" not in text else "?" for text in texts]


@pytest.mark.parametrize(("ours", "theirs"), BOTH_WAYS)
def test_two_tokens_end_together_where_the_same_is_read(ours: Make, theirs: Make) -> None:
    for text in (ODD.replace("\U0001f600", ""), *TEXTS[:5]):
        ids = ids_of(ours(), [text])[0]
        (found,) = spans(ours, theirs).read(np.array([ids]))
        first, second = (
            read_up_to(make(), each) for make, each in ((ours, ids), (theirs, found.ids_T.tolist()))
        )
        pairs = list(zip(found.ours_A.tolist(), found.theirs_A.tolist(), strict=True))
        assert pairs == sorted(pairs) and len(dict(pairs)) == len(pairs)
        assert all(first[i] == second[j] for i, j in pairs)
        # and nowhere else: a space alone is read by some without a token
        together = set(first) & set(second) - {"", "?"}
        assert {first[i] for i, _ in pairs} - {"", "?"} == together
        assert (len(ids) - 1, len(found.ids_T) - 1) in pairs
        assert not found.special_T.any() and not found.hidden_T.any()


def test_a_tokenizer_beside_itself_reads_the_same() -> None:
    first, second = ids_of(byte_level(), [ODD, TEXTS[0]])
    block = [0, *first, 0, *second]
    (found,) = spans(byte_level, byte_level).read(np.array([block]))
    assert found.ids_T.tolist() == block
    assert found.ours_A.tolist() == found.theirs_A.tolist() == list(range(len(block)))
    assert found.special_T.nonzero()[0].tolist() == [0, 1 + len(first)]


def test_marks_stand_for_marks_and_halves_of_characters_for_nothing() -> None:
    whole = ids_of(byte_level(), ["bark 中", "文 elin."])
    head, tail = whole[0][:-1], whole[1][1:]  # each lacks a part of a character
    (found,) = spans(byte_level, pieces).read(np.array([[0, *tail, 0, *head]]))
    theirs = pieces()
    marks = found.ids_T[found.special_T].tolist()
    assert marks == [theirs.cls_token_id, theirs.sep_token_id], "the first begins the block"
    read = theirs.decode(found.ids_T[~found.special_T])
    assert read == "elin. bark"
    assert (0, 0) in zip(found.ours_A, found.theirs_A, strict=True)
    assert len(found.ours_A) >= 5


def test_what_is_too_long_is_cut_and_has_no_place() -> None:
    ids_L = np.array([ids_of(byte_level(), [TEXTS[0]])[0]])
    (whole,), (cut,) = (spans(byte_level, finer, most).read(ids_L) for most in (1000, 7))
    assert cut.ids_T.tolist() == whole.ids_T[:7].tolist()
    there = whole.theirs_A < 7
    assert cut.ours_A.tolist() == whole.ours_A[there].tolist()
    assert there.sum() < len(there)
    # each of ours that is not a part of what is read: the seven tokens' text by itself
    ours, theirs = byte_level(), finer()
    rest, read = ids_L[0].tolist(), len(theirs.decode(cut.ids_T))
    inside = [n for n in range(len(rest)) if len(ours.decode(rest[: n + 1])) <= read]
    assert whole.num_beyond == 0 and 0 < cut.num_beyond == len(rest) - len(inside)


@pytest.mark.parametrize(("ours", "theirs"), [(masked_bytes, pieces), (pieces, masked_bytes)])
def test_what_one_does_not_see_the_other_does_not(ours: Make, theirs: Make) -> None:
    """Their token is hidden if it has a letter of one of ours that is."""
    text, draw = " ".join(TEXTS[:2]), np.random.default_rng(0)
    ids = ids_of(ours(), [text])[0]
    hidden_L = draw.random(len(ids)) < 0.2
    (found,) = spans(ours, theirs).read(np.array([ids]), hidden_L[None])
    of_letters: list[bool] = []  # for each letter whether it is hidden
    for text, is_hidden in zip(read_up_to(ours(), ids), hidden_L, strict=True):
        of_letters += [bool(is_hidden)] * (len(text) - len(of_letters))
    start = 0
    for text, is_hidden in zip(
        read_up_to(theirs(), found.ids_T.tolist()), found.hidden_T, strict=True
    ):
        if len(text) > start:
            assert any(of_letters[start : len(text)]) == is_hidden
        start = len(text)
    assert 0.1 < found.hidden_T.mean() < 0.6
