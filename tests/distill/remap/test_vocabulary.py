"""Another vocabulary's rows, token by token; and the account of them."""

import re
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import FromTeacher, Ligo, Vocabulary
from dwt_cli.distill.remap.remap import remap
from dwt_cli.distill.remap.vocabulary import KINDS, Transfer, rows_of_vocabulary, transfer
from tests.conftest import VOCAB_SIZE
from tests.distill.remap.conftest import WIDER, Pair
from tests.vocabularies import byte_level, masked_bytes, metaspace, pieces

NUM_ROWS = 340  # ten more than there are tokens
TO_BYTES = FromTeacher("stack", vocabulary=Vocabulary.transfer)
WHOLE = ("bert", "modernbert", "qwen3", "gpt2")


def between(
    ours: Callable[[], PreTrainedTokenizerFast], theirs: Callable[[], PreTrainedTokenizerFast]
) -> Transfer:
    return transfer(Surfaces(ours()), Surfaces(theirs()), NUM_ROWS)


def models(pair: Pair, family: str, **changes: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A student over bytes, and a teacher over word pieces."""
    return pair(family, 3, 4, vocab_size=NUM_ROWS, **changes)


@pytest.mark.parametrize("family", WHOLE)
def test_word_pieces_become_bytes(pair: Pair, family: str) -> None:
    """Masked and causal; embeddings, head and bias, tied or not."""
    student, teacher = models(pair, family)
    is_causal = family in ("qwen3", "gpt2")
    ours, theirs = byte_level() if is_causal else masked_bytes(), pieces()
    tokens = between(byte_level if is_causal else masked_bytes, pieces)
    account = remap(student, teacher, TO_BYTES, tokens)
    after, source = student.state_dict(), teacher.state_dict()
    names = rows_of_vocabulary(student)
    assert names == {name for name in after if after[name].shape[0] == NUM_ROWS}
    entries, known = theirs.get_vocab(), set(theirs.all_special_ids)
    for name in names:
        made, given = after[name], source[name]
        words = {each: ours.decode([each]) for each in range(len(ours))}
        words = {each: word for each, word in words.items() if re.fullmatch(" [a-z]+", word)}
        assert len(words) > 20
        for number, word in words.items():
            expected = ids_of(theirs, [word])[0]
            assert not known & set(expected)
            torch.testing.assert_close(made[number], given[expected].mean(0))
            if word.strip() in entries:
                assert torch.equal(made[number], given[entries[word.strip()]])
        special = [theirs.cls_token_id, theirs.sep_token_id]
        if is_causal:  # one mark begins and ends
            torch.testing.assert_close(made[ours.eos_token_id], given[special].mean(0))
        else:
            assert torch.equal(made[ours.mask_token_id], given[theirs.mask_token_id])
            assert torch.equal(made[ours.cls_token_id], given[theirs.cls_token_id])
        torch.testing.assert_close(made[-1], given.mean(0))
    assert sum(account.tokens.values()) == NUM_ROWS
    assert account.tokens.keys() == set(KINDS)
    assert account.copied.keys() == after.keys()


def test_each_row_is_the_mean_of_its_pieces() -> None:
    """Against a loop over the tokens, for pairs of three kinds of tokenizer, both ways."""
    kinds = (byte_level, pieces, metaspace)
    surfaces = {kind: Surfaces(kind()) for kind in kinds}
    for ours, theirs in ((one, two) for one in kinds for two in kinds if one is not two):
        tokens, known, there = between(ours, theirs), surfaces[ours], surfaces[theirs].bytes_of
        given = torch.randn(len(theirs()), 5, dtype=torch.float64)
        made, found = tokens(given), dict.fromkeys(KINDS, 0)
        for number in range(NUM_ROWS):
            of_row = tokens.pieces[number]
            mean = sum(given[each] for each in of_row) / len(of_row) if of_row else given.mean(0)
            torch.testing.assert_close(made[number], mean)
            surface = known.bytes_of.get(number)
            if surface is not None and of_row:
                again = b"".join(there[each] for each in of_row).lower().replace(b" ", b"")
                if theirs is not pieces:
                    assert again == surface.lower().replace(b" ", b"")
                found["copied"] += there[of_row[0]] == surface
        assert tokens.kinds["copied"] == found["copied"] > 30


def test_the_same_tokenizer_is_copied_whole() -> None:
    tokens = transfer(Surfaces(pieces()), Surfaces(pieces()), len(pieces()))
    given = torch.randn(len(pieces()), 3)
    assert torch.equal(tokens(given), given)
    assert tokens.kinds == dict.fromkeys(KINDS, 0) | {
        "copied": len(pieces()) - 5,
        "special": 5,
    }


def test_a_wider_student_gets_the_rows_first(pair: Pair) -> None:
    student, teacher = models(pair, "modernbert", **WIDER)
    tokens = between(masked_bytes, pieces)
    remap(student, teacher, FromTeacher("stack", "net2net", vocabulary=Vocabulary.transfer), tokens)
    rows = tokens(teacher.get_input_embeddings().weight)
    made = student.get_input_embeddings().weight
    torch.testing.assert_close(made, torch.cat([rows, rows], 1))


def test_maps_begin_as_the_rules_do(pair: Pair) -> None:
    student, teacher = models(pair, "modernbert", **WIDER)
    other, _ = models(pair, "modernbert", **WIDER)
    tokens, options = between(masked_bytes, pieces), Ligo("stack", "net2net")
    options.vocabulary = Vocabulary.transfer
    account = remap(other, teacher, options, tokens)
    made = Growing(student, teacher, options, torch.float32, tokens)
    assert made.fold(made.maps()).tokens == account.tokens
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=0, atol=1e-11)


@pytest.mark.parametrize("family", WHOLE)
def test_fresh_rows_are_left_as_they_were_made(pair: Pair, family: str) -> None:
    student, teacher = models(pair, family)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    account = remap(student, teacher, FromTeacher("stack", vocabulary=Vocabulary.fresh))
    names = rows_of_vocabulary(student)
    assert account.reset.keys() == names
    assert account.copied.keys() == before.keys() - names
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in names)


def test_shapes_alone_are_enough_beforehand(pair: Pair) -> None:
    student, teacher = (each.to("meta") for each in models(pair, "bert"))
    tokens = TO_BYTES.tokens(NUM_ROWS)
    assert tokens is not None
    assert remap(student, teacher, TO_BYTES, tokens).copied.keys() == student.state_dict().keys()
    assert teacher.config.vocab_size == VOCAB_SIZE
