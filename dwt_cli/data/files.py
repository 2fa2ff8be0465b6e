"""Text files of one's own: `KINDS`, all but .parquet also as .gz or .zst."""

import contextlib
import csv
import functools
import glob
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, Any

from dwt_cli.base.atomic import file_sum
from dwt_cli.data.source import CorpusError, Document, Progress, Source, text_of

READER_VERSION = 1
"""Raise it with every change that changes the text: it is part of the cache fingerprint."""

PROSE = (".txt", ".md")
MAY_DESCRIBE = (".json", ".csv")
"""Kinds of files that often lie beside text and say something about it."""
KINDS = (*PROSE, ".jsonl", *MAY_DESCRIBE, ".parquet")
DOCUMENT_BYTES = 200_000
"""A .txt or .md file above this size becomes several documents."""

Row = tuple[int, Any]
"""A row, a dict if all is well, and its number from 1; lines with nothing on them count too."""


class Files(Source):
    """The files that a glob matches, or all readable ones in a folder, as a source.

    `path`: relative to the working directory, `~` and `**` are understood. Names are relative to
    the part of `path` before the first wildcard. A .txt or .md file is one document, or, above
    DOCUMENT_BYTES, several, cut at blank lines: `file#0`, `file#1`, ... A row of any other file (a
    line or an object of JSON) is a document, named `file#row`, its text is in `text_column`. Raises
    CorpusError at once when nothing matches, and while streaming for a file that cannot be read; a
    file without text is left out where others have some. settings: what names path and text_column.
    beside: more columns that `rows` has.
    """

    def __init__(
        self,
        path: str,
        text_column: str = "text",
        settings: tuple[str, str] = ("data.path", "data.text_column"),
        beside: Sequence[str] = (),
    ) -> None:
        self.path, self._settings = path, settings
        self.text_column, self._beside = text_column, beside
        self._files, self._aside = _find(path, settings[0])
        for name, file in [*self._files.items()]:
            if _kind(name) in MAY_DESCRIBE:
                try:
                    next(self._read(file, name, lambda _: None), None)
                except CorpusError as problem:
                    if len(self._files) == 1:
                        raise
                    self._aside.append(str(problem))
                    del self._files[name]
        self.num_bytes = sum(file.stat().st_size for file in self._files.values())

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents in the order of the file names; progress counts bytes on disk."""
        total, before = int(self.num_bytes), 0
        progress(0, total)
        empty: list[CorpusError] = []
        for name, file in self._files.items():
            document = None

            def advance(position: int, start: int = before) -> None:
                progress(start + position, total)

            for document in self._read(file, name, advance):
                yield document
            if document is None:
                empty.append(self._problem(name, "holds no text; remove it or narrow the path"))
            before += file.stat().st_size
            progress(before, total)
        if len(empty) == len(self._files):
            raise empty[0]
        self.left_out = [*self._aside, *map(str, empty)]

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the rows of all files, each with where it stands. Raises CorpusError."""
        for name, file in self._files.items():
            if _kind(name) in PROSE:
                raise self._problem(name, "has no columns; give one of .jsonl, .csv or .parquet")
            with self._opened(file, name) as raw:
                yield from self._rows(raw, name)
        self.left_out = [*self._aside]

    def provenance(self) -> dict[str, Any]:
        """Return name, size and sha256 of every file."""
        files = [[name, f.stat().st_size, file_sum(f)] for name, f in self._files.items()]
        found: dict[str, Any] = {"source": "files", "reader": READER_VERSION, "files": files}
        if any(_kind(name) not in PROSE for name in self._files):
            found["text_column"] = self.text_column
        return found

    def _read(self, file: Path, name: str, advance: Callable[[int], None]) -> Iterator[Document]:
        """Yield a file's documents; advance: is told the bytes that are read, now and then."""
        with self._opened(file, name) as raw:
            for number, document in enumerate(self._documents(raw, name)):
                yield document
                if number % 64 == 0 and not raw.closed:  # an archive closes it at its end
                    advance(raw.tell())

    @contextlib.contextmanager
    def _opened(self, file: Path, name: str) -> Iterator[IO[bytes]]:
        try:
            with file.open("rb") as raw:
                yield raw
        except OSError as error:  # unreadable, or a cut-off archive
            raise self._problem(
                name, f"is damaged or not readable ({error}); fetch it again"
            ) from error

    def _documents(self, raw: IO[bytes], name: str) -> Iterator[Document]:
        if _kind(name) in PROSE:
            yield from _cut(name, self._lines(raw, name))
            return
        for place, row in self._rows(raw, name):
            text = text_of(row, self.text_column, self._settings[1], place)
            if found := tuple(each for each, _ in paragraphs(text.splitlines())):
                yield Document(f"{name}#{place.rpartition(' ')[2]}", found)

    def _rows(self, raw: IO[bytes], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        kind, lines = _kind(name), self._lines(raw, name)
        readers = {".csv": self._csv_rows, ".json": self._json_objects, ".jsonl": self._json_rows}
        rows = self._parquet_rows(raw, name) if kind == ".parquet" else readers[kind](lines, name)
        for number, row in rows:
            if not isinstance(row, dict):
                what = "is no JSON object; write one object per line, or a list of them"
                raise self._problem(f"{name} row {number}", what)
            yield f"{name} row {number}", row

    def _json_rows(self, lines: Iterable[str], name: str) -> Iterator[Row]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                what = f"is not JSON ({error}); write one object per line"
                raise self._problem(f"{name} line {number}", what) from error

    def _json_objects(self, lines: Iterable[str], name: str) -> Iterator[Row]:
        lines = list(lines)
        try:
            whole = json.loads("".join(lines))
        except ValueError:  # many call a file so that has an object on each line
            yield from self._json_rows(lines, name)
            return
        yield from enumerate(whole if isinstance(whole, list) else [whole], start=1)

    def _csv_rows(self, lines: Iterable[str], name: str) -> Iterator[Row]:
        csv.field_size_limit(sys.maxsize)
        rows = csv.DictReader(lines, restkey="")
        try:
            yield from enumerate(rows, start=1)
        except csv.Error as error:
            place = f"{name} line {rows.line_num + 1}"
            raise self._problem(place, f"is not CSV ({error}); write it anew") from error

    def _parquet_rows(self, raw: IO[bytes], name: str) -> Iterator[Row]:
        from pyarrow.parquet import ParquetFile

        try:
            table = ParquetFile(raw)
        except ValueError as error:
            raise self._problem(name, f"is no parquet file ({error}); fetch it again") from error
        columns = table.schema_arrow.names
        text_of(dict.fromkeys(columns), self.text_column, self._settings[1], name)
        wanted = [each for each in columns if each in (self.text_column, *self._beside)]
        batches = table.iter_batches(batch_size=1024, columns=wanted)
        yield from enumerate((row for each in batches for row in each.to_pylist()), start=1)

    def _lines(self, raw: IO[bytes], name: str) -> Iterator[str]:
        """Yield the decoded lines of a file, without a byte order mark."""
        for number, line in enumerate(_decompressed(raw, name), start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self._problem(
                    f"{name} line {number}", "is not UTF-8; convert it, for instance by iconv"
                ) from error

    def _problem(self, place: str, what: str) -> CorpusError:
        return CorpusError(f"{self._settings[0]}={self.path}: {place} {' '.join(what.split())}")


def _kind(name: str) -> str:
    """Return a file's suffix in lower case, without that of its compression."""
    return PurePath(name.lower().removesuffix(".gz").removesuffix(".zst")).suffix


def _find(path: str, setting: str) -> tuple[dict[str, Path], list[str]]:
    """Return the files by their names below the folder that they are relative to, in order.

    And a line for each that has a name of such, and cannot be read. What a link leads back to is
    found once.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        root, pattern = given, "**/*"
    elif given.is_file():
        root, pattern = given.parent, glob.escape(given.name)
    else:
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), given.parts[:-1])
        root = Path(*fixed)
        pattern = str(given.relative_to(root))
    resolved = functools.cache(Path.resolve)
    files, readable, left_out = 0, {}, []
    # glob, since pathlib's does not leave out hidden files
    for found in sorted(glob.glob(pattern, root_dir=root, recursive=True)):  # noqa: PTH207
        name, file = PurePath(found).as_posix(), root / found
        above = [resolved(root / folder) for folder in PurePath(name).parents]
        if len(set(above)) < len(above) or file.is_dir():
            continue
        files += 1
        if _kind(name) not in KINDS:
            continue
        if not file.exists():
            left_out.append(f"{name} is a broken link; mend or remove it")
        elif not file.is_file():
            left_out.append(f"{name} is a pipe or a device; write what it gives to a file")
        elif file.name.lower() == "readme.md" and file != given:
            left_out.append(f"{name} is taken for a word about the rest; give it by its name")
        else:
            readable[name] = file
    left_out = [f"{setting}={path}: {line}" for line in left_out]
    if not readable:
        others = f"none of the {files} files there is readable" if files else "no such file"
        raise CorpusError(
            left_out[0]
            if left_out
            else f"{setting}={path}: {others} (looked in {Path.cwd()}); give a file, a folder or a "
            f"quoted glob of {', '.join(KINDS)}"
        )
    return readable, left_out


def _decompressed(raw: IO[bytes], name: str) -> Iterable[bytes]:
    if not name.lower().endswith((".gz", ".zst")):
        return raw
    import pyarrow

    # unlike zstandard's reader it notices an archive that was cut off, in both formats
    codec = "gzip" if name.lower().endswith(".gz") else "zstd"
    return io.BufferedReader(pyarrow.CompressedInputStream(raw, codec))


Paragraph = tuple[str, bool]
"""The text, and whether a blank line stood before it."""

_SENTENCE_END = re.compile(r"[.!?:;…][\"'”’)\]*_]*\Z")
SAMPLE_LINES = 5000
MAX_WRAP_WIDTH = 100


def paragraphs(lines: Iterable[str]) -> Iterator[Paragraph]:
    """Yield the paragraphs of a text file.

    In most files a line is a paragraph. In a hard-wrapped one (by the first 5000 lines: narrow,
    and sentences run on over the ends of lines) lines are joined up to a blank line, an indented
    line, or the short last line of a paragraph.
    """
    stream = iter(lines)
    head = list(itertools.islice(stream, SAMPLE_LINES))
    width = _wrap_width(head)
    paragraph = last = ""  # last: its last line
    starts_after_blank = blank = indented = False
    for line in itertools.chain(head, stream):
        text = " ".join(line.split())
        if not text:
            blank = True
            continue
        was_indented, indented = indented, line[0].isspace()
        has_room = width and len(last) + len(text.split(" ", 1)[0]) < 0.9 * width
        is_sentence = has_room and not text[0].islower() and _SENTENCE_END.search(last)
        ended = not width or blank or is_sentence or (indented and not was_indented)
        if paragraph and ended:
            yield paragraph, starts_after_blank
            paragraph = ""
        if not paragraph:
            paragraph, starts_after_blank = text, blank
        elif paragraph[-1] == "-" and paragraph[-2:-1].isalpha() and text[0].islower():
            paragraph += text  # hill-|crest; a dash has a space before it
        else:
            paragraph += " " + text
        last, blank = text, False
    if paragraph:
        yield paragraph, starts_after_blank


def _wrap_width(lines: list[str]) -> int:
    """Return the width at which lines are wrapped (95 % are no longer), or 0 if they are not."""
    stripped = [line.strip() for line in lines]
    lengths = sorted(len(line) for line in stripped if line)
    pairs = [(a, b) for a, b in itertools.pairwise(stripped) if a and b]
    if len(pairs) < 4 or lengths[len(lengths) * 9 // 10] > MAX_WRAP_WIDTH:
        return 0
    running_on = sum(1 for a, b in pairs if b[0].islower() and not _SENTENCE_END.search(a))
    return lengths[len(lengths) * 19 // 20] if running_on > 0.25 * len(pairs) else 0


def _cut(name: str, lines: Iterable[str]) -> Iterator[Document]:
    """Yield documents of at most DOCUMENT_BYTES, cut at blank lines where there are any."""
    parts = _parts(paragraphs(lines))
    first = list(itertools.islice(parts, 2))
    for number, part in enumerate(itertools.chain(first, parts)):
        yield Document(f"{name}#{number}" if len(first) > 1 else name, part)


def _parts(stream: Iterable[Paragraph]) -> Iterator[tuple[str, ...]]:
    part: list[str] = []  # up to the last blank line
    group: list[str] = []  # since then
    size = group_size = 0  # of both together, of the group
    for text, after_blank in stream:
        length = len(text.encode()) + 1
        if after_blank:
            part, group, group_size = part + group, [], 0
        if part and size + length > DOCUMENT_BYTES:
            yield tuple(part)
            part, size = [], group_size
        if group and size + length > DOCUMENT_BYTES:
            yield tuple(group)
            group, size, group_size = [], 0, 0
        group.append(text)
        size += length
        group_size += length
    if part or group:
        yield tuple(part + group)
