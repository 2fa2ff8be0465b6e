import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dwt_cli.data.tokenizer import SPECIAL_TOKENS, train_tokenizer


def texts() -> list[str]:
    """Many pieces of equal frequency, signs, accents, ideographs, more characters than are kept."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyzéüß", k=draw.randint(2, 9)))
        for _ in range(400)
    ]
    lines = [" ".join(draw.choices(words, k=12)) + ", (漢字)!" for _ in range(150)]
    return [*lines, " ".join(map(chr, range(0x1200, 0x1700)))]


@pytest.fixture(scope="module")
def trained() -> Any:
    return train_tokenizer(texts(), 2500, 64)


@pytest.mark.slow
def test_the_same_vocabulary_in_every_process(trained: Any) -> None:
    """The trainer by itself numbers pieces in the order of a hash map (tokenizers#1794)."""
    program = (
        "import json; from dwt_cli.data.tokenizer import train_tokenizer; "
        "from tests.data.test_tokenizer import texts; "
        "print(json.dumps(train_tokenizer(texts(), 2500, 64).get_vocab(), sort_keys=True))"
    )
    there = json.loads(
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        ).stdout
    )
    assert there == trained.get_vocab()


def test_the_size_asked_for_and_bert_s_special_tokens(trained: Any) -> None:
    assert len(trained) == 2500
    assert trained.convert_ids_to_tokens(range(5)) == SPECIAL_TOKENS
    assert set(trained.all_special_tokens) == set(SPECIAL_TOKENS)
    pieces = trained.get_vocab()
    assert {"a", "##a", "é"} & pieces.keys() == {"a", "##a"}, "accents are folded"
    assert {"(", "漢", "ß", "##ß"} <= pieces.keys()
    assert not {"##(", "##漢"} & pieces.keys(), "what never goes on a word takes no place"


@pytest.mark.parametrize(("vocab_size", "num_characters"), [(100, 47), (1500, 747), (2500, 1000)])
def test_characters_never_take_more_than_their_room(vocab_size: int, num_characters: int) -> None:
    pieces = train_tokenizer(texts(), vocab_size, 64).get_vocab()
    assert len(pieces) <= vocab_size
    assert len({piece for piece in pieces if len(piece) == 1}) == num_characters


def test_words_come_back(trained: Any) -> None:
    ids = trained("Abcé, (漢字)! \u0001")["input_ids"]
    assert trained.decode(ids, skip_special_tokens=True).replace(" ", "") == "abce,(漢字)!"


def test_a_small_text_gives_a_small_vocabulary() -> None:
    assert len(train_tokenizer(["ab ab", "ab c"], 1000, 16)) == 5 + len(
        {"a", "b", "c", "##a", "##b", "##c", "ab"}
    )


def test_saved_and_opened_it_is_the_same(trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    line = texts()[0] + " [MASK]"
    assert opened(line)["input_ids"] == trained(line)["input_ids"]
    assert (opened.mask_token_id, opened.cls_token_id, opened.sep_token_id) == (4, 2, 3)
    assert opened.model_max_length == 64
