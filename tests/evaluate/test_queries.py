import json
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.queries import Query, read_queries
from dwt_cli.tasks.options import CausalLM, MaskedLM, Task
from tests.evaluate.test_zero_shot import a_tokenizer


def read(folder: Path, task: Task, tokenizer: Any, *lines: str | dict[str, Any]) -> list[Query]:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file = folder / "queries.jsonl"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return read_queries(file, task, tokenizer, 24)


def a_word(corpus: Corpus, number: int = 0) -> str:
    """Return a word of the text that is one token."""
    words = [word for word in sorted(corpus.tokenizer.get_vocab()) if word.isalpha()]
    return [word for word in words if len(word) > 3][number]


def test_a_masked_query_shows_the_mask_where_the_word_was(corpus: Corpus, tmp_path: Path) -> None:
    one, two = a_word(corpus), a_word(corpus, 1)
    line = {"text": f"{two} dark [MASK] {one}, {two}.", "answer": one, "instead": two}
    (query,) = read(tmp_path, MaskedLM(), corpus.tokenizer, "", line)
    tokenizer = corpus.tokenizer
    whole = tokenizer(f"{two} dark {one} {one}, {two}.")["input_ids"]
    (place,) = query.said.rows
    assert query.other is not None and query.other.ids == query.said.ids
    assert query.said.ids[place] == tokenizer.mask_token_id
    for side, word in ((query.said, one), (query.other, two)):
        (ids,) = ids_of(tokenizer, [word])
        assert list(side.labels) == ids
        assert side.rows == (place,)
    filled = list(query.said.ids)
    filled[place] = query.said.labels[0]
    assert filled == whole
    assert query.filled == f"{two} dark {one} {one}, {two}."


def test_a_decoder_goes_on_with_each_word(tmp_path: Path) -> None:
    tokenizer = a_tokenizer(False)
    line = {"text": "The cat sat on", "answer": "the mat", "instead": "a chair"}
    (query,) = read(tmp_path, CausalLM(), tokenizer, line)
    assert query.other is not None
    before, _ = CausalLM.frame.ids(tokenizer)
    (given,) = ids_of(tokenizer, [" The cat sat on"])
    for side, words in ((query.said, "the mat"), (query.other, "a chair")):
        (ids,) = ids_of(tokenizer, [f" The cat sat on {words}"])
        assert list(side.ids) == [*before, *ids][:-1]
        assert [side.ids[row] for row in side.rows] == [*before, *ids][len(given) : -1]
        assert list(side.labels) == ids[len(given) :]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: no JSON"),
        ('["a"]', "line 2: no JSON object"),
        ({"answer": "a"}, 'line 2: "text" is missing'),
        ({"text": "a [MASK]"}, 'line 2: "answer" is missing'),
        ({"text": "a [MASK]", "answer": 3}, 'line 2: "answer" is no text'),
        ({"text": "a [MASK]", "answer": " "}, 'line 2: "answer" is no text'),
        ({"text": "a", "answer": "a", "insted": "b"}, "did you mean instead?"),
        ({"text": "a", "answer": "a", "instead": "a"}, "is the answer itself"),
        ({"text": "a b", "answer": "a"}, "its text has no [MASK]; exactly one"),
        ({"text": "[MASK] [MASK]", "answer": "a"}, "its text has 2 [MASK]; exactly one"),
        ({"text": "a [MASK]", "answer": "lossamelinossa"}, "tokens of this model ("),
        ({"text": "a [MASK]", "answer": "漢"}, "is not in the vocabulary"),
        ({"text": "a " * 30 + "[MASK]", "answer": "a"}, "33 tokens, the model reads 24"),
    ],
)
def test_what_is_no_query_is_told_with_its_line(
    corpus: Corpus, tmp_path: Path, line: Any, said: str
) -> None:
    good = {"text": "a [MASK]", "answer": a_word(corpus)}
    with pytest.raises(UserError) as problem:
        read(tmp_path, MaskedLM(), corpus.tokenizer, good, line)
    assert "queries.jsonl, line 2: " in str(problem.value)
    assert said in str(problem.value) and "\n" not in str(problem.value)


def test_a_decoder_has_no_mask_and_a_file_has_queries(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leave \[MASK\] out"):
        read(tmp_path, CausalLM(), a_tokenizer(False), {"text": "a [MASK]", "answer": "b"})
    with pytest.raises(UserError, match="has no query"):
        read(tmp_path, CausalLM(), a_tokenizer(False), "", " ")
    with pytest.raises(UserError, match="cannot be read"):
        read_queries(tmp_path / "none.jsonl", CausalLM(), a_tokenizer(False), 24)
