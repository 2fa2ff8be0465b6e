"""The byte-level vocabulary."""

import json
import os
import subprocess
import sys

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import MARK, PADDING, train_tokenizer
from dwt_cli.data.source import no_progress
from dwt_cli.data.tokenizer import ids_of
from tests.conftest import Sentences

TRAIN = """
import json, sys
from dwt_cli.data.bpe import byte_level_bpe
sys.stdout.write(byte_level_bpe(json.load(sys.stdin), 600).to_str())
"""


def texts() -> list[str]:
    return [text for each in Sentences().documents(no_progress) for text in each.paragraphs]


def test_the_same_file_with_any_number_of_threads() -> None:
    """In processes of their own: threads are counted when the first of them starts."""
    one, eight = (
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            input=json.dumps(texts()),
            env=os.environ | {"RAYON_NUM_THREADS": number, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "8")
    )
    assert one == eight
    assert len(json.loads(one)["model"]["merges"]) > 60


def test_any_text_comes_back_byte_for_byte() -> None:
    tokenizer = train_tokenizer(texts(), 400, 64)
    assert 300 < len(tokenizer) <= 400
    for text in (
        *("bark, belin.", "  two\n\nlines\t", "\u00e9\u4e2d\U0001f600\x00"),
        f"a {MARK} b",
    ):
        (ids,) = ids_of(tokenizer, [text])
        assert tokenizer.decode(ids) == text
        assert not {0, 1} & set(ids), "a mark in the text is text"
    assert tokenizer.convert_ids_to_tokens([0, 1]) == [MARK, PADDING]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.vocab_size=257.*vocab_size=258 or more"):
        train_tokenizer(["a b"], 257, 64)
