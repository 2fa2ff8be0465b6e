import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dwt_cli.data.files import DOCUMENT_BYTES, Files, paragraphs
from dwt_cli.data.source import CorpusError, Document, no_progress

NOVEL = """CHAPTER I

The coach had stopped at the foot of the hill, where the road turns
towards the sea, and the driver was looking at his half-
hidden horses as if they knew more than he did.

"Well," said the clergyman, "there is nothing to be done about it
now, I am afraid."
"Nothing," said the driver.
He sat down upon the bank by the side of the road, and he began to
eat.

The sea was quiet on that day, as if it had been told to be so.
The horses slept.

   An indented line begins a paragraph, even where there was no
blank line above it, as some printers have it in their books for
   the sake of the paper that is saved by it in the long run.
"""
NOVEL_PARAGRAPHS = [
    "CHAPTER I",
    "The coach had stopped at the foot of the hill, where the road turns towards the sea, and"
    + " the driver was looking at his half-hidden horses as if they knew more than he did.",
    '"Well," said the clergyman, "there is nothing to be done about it now, I am afraid."',
    '"Nothing," said the driver.',
    "He sat down upon the bank by the side of the road, and he began to eat.",
    "The sea was quiet on that day, as if it had been told to be so. The horses slept.",
    "An indented line begins a paragraph, even where there was no blank line above it, as"
    + " some printers have it in their books for",
    "the sake of the paper that is saved by it in the long run.",
]
ARTICLES = "First title\nA paragraph of the first.\nAnother one.\n\nSecond title\nIts  text.\n"
ARTICLE_LINES = ("First title", "A paragraph of the first.", "Another one.", "Second title")


def read(path: Path | str, column: str = "text") -> list[Document]:
    return list(Files(str(path), column).documents(no_progress))


def texts(lines: str) -> list[str]:
    return [text for text, _ in paragraphs(lines.splitlines(keepends=True))]


def test_hard_wrapped_lines_are_joined() -> None:
    assert texts(NOVEL) == NOVEL_PARAGRAPHS


@pytest.mark.parametrize("end", ["\r\n", "\n\n\n"])
def test_line_ends_do_not_matter(end: str) -> None:
    wrapped = NOVEL.replace("\n", "\r\n") if end == "\r\n" else NOVEL.replace("\n\n", end)
    assert texts(wrapped) == NOVEL_PARAGRAPHS


@pytest.mark.parametrize(
    "lines",
    [
        [f"Line {i} is a whole paragraph, of a length that no wrapping has." * 3 for i in range(9)],
        ["it was late .", "he went home and slept .", "the door was open , she saw .", "why ?"] * 5,
        ["Berlin", "New York", "Rome and Paris", "Oslo", "the Hague", "London", "Bern"] * 3,
    ],
    ids=["long lines", "lower-case sentences", "a list"],
)
def test_lines_that_are_not_wrapped_stay_apart(lines: list[str]) -> None:
    assert texts("\n".join(lines)) == lines


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "A.TXT", "a.md"])
def test_a_text_file_is_a_document(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, b"\xef\xbb\xbf" + ARTICLES.encode())
    assert read(file) == [Document(name, (*ARTICLE_LINES, "Its text."))]


ROWS = [
    {"text": "One line.\nAnother  line.", "n": 1},
    {"text": "", "n": 2},
    {"text": "Zwölf", "n": 3},
]


@pytest.fixture(params=["a.jsonl", "a.jsonl.gz", "A.JSONL.zst", "a.parquet", "a.json", "a.csv"])
def rows_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "a.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / request.param)
        return tmp_path / str(request.param)
    content = "\n".join(json.dumps(row) for row in ROWS)
    if request.param == "a.json":
        content = json.dumps(ROWS, indent=1)
    elif request.param == "a.csv":
        content = 'text,n\n"One line.\nAnother  line.",1\n,2\nZwölf,3\n'
    return write(tmp_path / request.param, content.encode())


def test_a_row_is_a_document(rows_file: Path) -> None:
    assert read(rows_file) == [
        Document(f"{rows_file.name}#1", ("One line.", "Another line.")),
        Document(f"{rows_file.name}#3", ("Zwölf",)),
    ]


def test_a_missing_column_lists_the_columns(rows_file: Path) -> None:
    message = r"data.text_column=body: [aA]\..* choose one of text, n"
    with pytest.raises(CorpusError, match=message):
        read(rows_file, "body")


def test_a_column_that_is_no_text_is_refused(rows_file: Path) -> None:
    if rows_file.suffix == ".csv":  # there is nothing else
        assert len(read(rows_file, "n")) == 3
        return
    message = r"data.text_column=n: [aA]\..* row 1 holds int, not text"
    with pytest.raises(CorpusError, match=message):
        read(rows_file, "n")


def big_articles(count: int) -> Iterator[str]:
    for i in range(count):
        yield f"Article {i}\n" + f"This is sentence number {i} of the article.\n" * 200 + "\n"


def test_a_big_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    text = "".join(big_articles(60))
    found = read(write(tmp_path / "big.txt", text.encode()))
    assert [document.name for document in found] == [f"big.txt#{i}" for i in range(len(found))]
    assert all(document.paragraphs[0].startswith("Article ") for document in found)
    lines = [line for document in found for line in document.paragraphs]
    assert lines == [line for line in text.splitlines() if line]
    sizes = [sum(len(line) + 1 for line in document.paragraphs) for document in found]
    assert max(sizes) <= DOCUMENT_BYTES
    assert min(sizes[:-1]) > DOCUMENT_BYTES - 10_000  # no article more would have fitted


def test_a_big_file_without_blank_lines_is_cut_at_paragraphs(tmp_path: Path) -> None:
    lines = [f"Sentence {i} of a file that never stops for a breath." for i in range(12_000)]
    small = "A small article\n\n"
    found = read(write(tmp_path / "big.txt", (small + "\n".join(lines)).encode()))
    assert found[0].paragraphs == ("A small article",)
    assert [line for document in found[1:] for line in document.paragraphs] == lines
    for document in found:
        assert sum(len(line) + 1 for line in document.paragraphs) <= DOCUMENT_BYTES


def test_what_a_path_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "sub/deep/c.txt.gz", "sub/notes.md", ".hidden/d.txt"):
        write(tmp_path / "home" / "in" / name, f"Text of {name}".encode())
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def names(path: str) -> list[str]:
        return [document.name for document in read(path)]

    (tmp_path / "home" / "in" / "sub" / "back").symlink_to("..")
    assert names("in") == ["a.txt", "b.txt", "sub/deep/c.txt.gz", "sub/notes.md"]
    assert names("~/in/") == names(str(tmp_path / "home/in")) == names("in/**") == names("in")
    assert names("in/*.txt") == ["a.txt", "b.txt"]
    assert names("in/**/*.gz") == ["sub/deep/c.txt.gz"]
    assert names("i?/sub/deep/*") == ["in/sub/deep/c.txt.gz"]
    assert names("in/a.txt") == ["a.txt"]


def test_what_is_left_out_among_others_is_named(tmp_path: Path) -> None:
    kept = write(tmp_path / "a.jsonl", b'{"text": "A text."}')
    content = Files(str(kept)).provenance()
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to("nowhere")
    (tmp_path / "again").symlink_to(tmp_path)
    for name, text in {"README.md": "About it", "d.json": '{"rows": 1}', "e.csv": "n\n1"}.items():
        write(tmp_path / name, text.encode())
    source = Files(str(tmp_path))
    assert source.provenance() == content, "it is the text that it was without them"
    write(tmp_path / "f.txt", b" ")
    source = Files(str(tmp_path))
    assert source.left_out == ()
    assert [document.name for document in source.documents(no_progress)] == ["a.jsonl#1"]
    expected = ["README.md is", "b.txt is a pipe", "c.txt is a broken", "d.json", "e.csv", "f.txt"]
    assert all(what in line for what, line in zip(expected, source.left_out, strict=True))


def test_provenance_follows_the_content_alone(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "a.txt", b"Some text.")
    other = write(tmp_path / "other" / "a.txt", b"Some text.")
    found = Files(str(one.parent)).provenance()
    assert found["files"] == [["a.txt", 10, hashlib.sha256(b"Some text.").hexdigest()]]
    assert found == Files(str(other)).provenance() == Files(str(other), "ignored").provenance()
    other.write_bytes(b"Some texts")
    assert found != Files(str(other)).provenance()
    rows = write(tmp_path / "rows.jsonl", b"{}")
    assert Files(str(rows), "a").provenance() != Files(str(rows), "b").provenance()
    json.dumps(found)


def test_progress_counts_bytes_on_disk(tmp_path: Path) -> None:
    sizes = [
        write(tmp_path / name, line * 5000).stat().st_size
        for name, line in (("a.txt", b"A line.\n"), ("b.jsonl", b'{"text": "A line."}\n'))
    ]
    calls: list[tuple[int, int]] = []
    list(Files(str(tmp_path)).documents(lambda *call: calls.append(call)))
    assert calls == sorted(calls)
    assert calls[0] == (0, sum(sizes))
    assert calls[-1] == (sum(sizes), sum(sizes))
    assert len(calls) > 4


TRUNCATED = gzip.compress(ARTICLES.encode() * 100)[:-9]
CUT_ZST = zstandard.compress(ARTICLES.encode() * 100)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nb\xe4d\n", "a.txt line 2 is not UTF-8; convert it"),
        ("a.txt", b"", "a.txt holds no text; remove it"),
        ("a.txt", b" \n\n", "a.txt holds no text"),
        ("a.txt.gz", TRUNCATED, "a.txt.gz is damaged or not readable .*; fetch it again"),
        ("a.txt.zst", CUT_ZST, "a.txt.zst is damaged or not readable .*; fetch it again"),
        ("a.txt.gz", b"no gzip at all", "a.txt.gz is damaged or not readable"),
        ("a.txt.gz", b"", "a.txt.gz holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl line 2 is not JSON .* one object per"),
        ("a.jsonl", b'["text"]', "a.jsonl row 1 is no JSON object"),
        ("a.json", b'["text"]', "a.json row 1 is no JSON object"),
        ("a.json", b"[", "a.json line 1 is not JSON"),
        ("a.csv", b"text\ra", "a.csv line 1 is not CSV"),
        ("a.jsonl", b'{"text": null}', "a.jsonl holds no text"),
        ("a.parquet", b"PAR1 but not really", "a.parquet is no parquet file"),
        ("a.parquet", b"", "a.parquet is no parquet file"),
    ],
)
def test_a_bad_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=f"^data.path={tmp_path}: {message}") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/*.txt", r"data.path=no/\*.txt: no such file .* quoted glob of .txt"),
        ("notes.rst", "data.path=notes.rst: none of the 1 files there is readable"),
        ("pipe.txt", "data.path=pipe.txt: pipe.txt is a pipe or a device; write what"),
        ("lost.txt", "data.path=lost.txt: lost.txt is a broken link; mend or remove it"),
    ],
)
def test_no_match_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.rst").write_text("notes")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(CorpusError, match=message):
        Files(path)
