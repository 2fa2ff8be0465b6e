"""What tokens stand for, and the pieces of a string, against the tokenizers themselves."""

import copy

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dwt_cli.base.errors import UserError
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import ids_of
from tests.vocabularies import ODD, TEXTS, byte_level, masked_bytes, metaspace, pieces

KINDS = {"bytes": byte_level, "masked": masked_bytes, "pieces": pieces, "metaspace": metaspace}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_what_its_tokens_stand_for(kind: str) -> None:
    tokenizer = KINDS[kind]()
    known = Surfaces(tokenizer)
    for text in (ODD, *TEXTS[:3]):
        ids = [number for number in ids_of(tokenizer, [text])[0] if number in known.bytes_of]
        found = b"".join(known.bytes_of[number] for number in ids).decode()
        if kind == "pieces":  # it leaves out spaces, accents and capitals
            text = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
            text = text.replace("\U0001f600", "")
            assert found.replace(" ", "") == text.replace(" ", "")
        else:
            assert found.removeprefix(" ") == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_a_word_are_what_the_tokenizer_makes_of_it(kind: str) -> None:
    """After a space, as in a text; and inside a word, where WordPiece has tokens of their own."""
    tokenizer = KINDS[kind]()
    known = Surfaces(tokenizer)
    for word in ("bark", "belin", "dossamark", "caf\u00e9", "文", "elin"):
        after = ids_of(tokenizer, [f"mum {word}"])[0]
        before = len(ids_of(tokenizer, ["mum"])[0])
        assert known.pieces(f" {word}".encode()) == after[before:]
        assert all(known.pieces(known.bytes_of[number]) == [number] for number in after)
    inside = known.pieces(b"elin")
    assert b"".join(known.bytes_of[number] for number in inside) == b"elin"


def test_what_is_written_as_bytes_is_found() -> None:
    known = Surfaces(metaspace())
    (half,) = known.pieces(b"\xe4")
    assert metaspace().convert_ids_to_tokens(half) == "<0xE4>"
    assert known.pieces("\u4e2d".encode())[0] == half


def test_nothing_known_is_nothing() -> None:
    known = Surfaces(pieces())
    assert known.pieces(b"\n") == known.pieces(b" ") == known.pieces(b"\xe4") == []
    assert known.pieces(b",") == known.pieces(b" ,") == [known.ids[b","]]


def test_ends_of_words_are_refused() -> None:
    made = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    with pytest.raises(UserError, match=r"teacher.path=x: .* ends of words.*choose another"):
        Surfaces(PreTrainedTokenizerFast(tokenizer_object=made), "teacher.path=x")


def test_what_ends_a_text_and_is_padding_too_is_no_padding_in_it() -> None:
    ours, theirs = copy.deepcopy(byte_level()), pieces()
    ours.pad_token = ours.unk_token = ours.eos_token
    roles = Surfaces(ours).by_role(Surfaces(theirs))
    assert roles[ours.eos_token_id] == [theirs.cls_token_id, theirs.sep_token_id]
