"""Labelled texts: from files of one's own, or made of the documentation of installed packages."""

import contextlib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from dwt_cli.data.docs import Docs, documentation, source_files
from dwt_cli.data.files import Files
from dwt_cli.data.prose import duplicate_key, prose
from dwt_cli.data.source import CorpusError, text_of

_SHOWN = 8  # names of classes in a message
_MIN_WORDS = 8  # of a paragraph that says anything about its package


class Examples(NamedTuple):
    """Texts, or pairs of them, with class numbers or, for a regression, numbers."""

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[float]
    remarks: list[str]


@dataclass(frozen=True)
class LabelledSet:
    """A training part, and held-out parts by name, of which the first one's loss counts.

    names: of the classes; none of a regression. about: what a reader must know of the split.
    """

    names: tuple[str, ...]
    train: Examples
    heldout: Mapping[str, Examples]
    about: str

    @property
    def remarks(self) -> list[str]:
        """What is to be said about all parts, each once."""
        parts = (self.train, *self.heldout.values())
        return list(dict.fromkeys(chain.from_iterable(part.remarks for part in parts)))


@dataclass(frozen=True)
class Columns:
    """The columns of one's own files: a text or two, and the label: a class, or a number."""

    texts: Sequence[str]
    label: str
    is_number: bool = False


@dataclass
class OwnFiles:
    """Labelled rows of .jsonl, .json, .csv or .parquet files, with a dev part or a share as such.

    A share is drawn by the sums of the texts, so that equal ones are on one side. Raises
    `CorpusError` for what cannot be read or learned.
    """

    path: str
    dev_path: str | None
    columns: Columns
    dev_share: float
    _parts: dict[str, Files] = field(init=False)

    def __post_init__(self) -> None:
        paths = {"path": self.path, "dev_path": self.dev_path}
        first, *others = self.columns.texts
        beside = (*others, self.columns.label)
        self._parts = {
            name: Files(path, first, (f"task.{name}", "task.text_columns"), beside)
            for name, path in paths.items()
            if path is not None
        }

    def content(self) -> dict[str, Any]:
        """Return what determines the set: the sums of the files, their columns, and the split."""
        sums = {
            name: [row[1:] for row in part.provenance()["files"]]
            for name, part in self._parts.items()
        }
        columns, share = self.columns, self.dev_share if self.dev_path is None else None
        named = [list(columns.texts), columns.label, columns.is_number]
        return {"source": "own", "files": sums, "columns": named, "dev_share": share}

    def read(self) -> LabelledSet:
        """Return the whole set; its remarks name the files and the texts that a reader must."""
        self._refuse_shared_files()
        parts = {name: list(self._rows(part)) for name, part in self._parts.items()}
        remarks = [line for part in self._parts.values() for line in part.left_out]
        train, about = parts["path"], "a file of its own"
        if self.dev_path is None:
            is_dev = [_drawn(texts, self.dev_share) for texts, _ in train]
            parts["dev_path"] = [row for row, chosen in zip(train, is_dev, strict=True) if chosen]
            train = [row for row, chosen in zip(train, is_dev, strict=True) if not chosen]
            about = f"drawn by their texts (task.dev_share={self.dev_share:g})"
        dev = parts["dev_path"]
        held = ("dev_path", self.dev_path) if self.dev_path else ("dev_share", self.dev_share)
        for (setting, value), rows in ((("path", self.path), train), (held, dev)):
            if not rows:
                named = f"task.{setting}={value}"
                raise CorpusError(f"{named}: no row is left for this part; give more rows")
        trained_on = {texts for texts, _ in train}
        if num_both := sum(texts in trained_on for texts, _ in dev):
            remarks.append(f"{num_both:,} of {len(dev):,} held-out texts are also trained on")
        names = self._names(train, dev)
        of: Mapping[Any, float] = {name: number for number, name in enumerate(names)}
        if self.columns.is_number:
            names, of = (), {label: label for _, label in (*train, *dev)}
        return LabelledSet(names, _examples(train, of), {"": _examples(dev, of, remarks)}, about)

    def _refuse_shared_files(self) -> None:
        sums = {
            name: {file_sum: file for file, _, file_sum in part.provenance()["files"]}
            for name, part in self._parts.items()
        }
        held_out = sums.get("dev_path", {})
        if both := sorted(held_out[each] for each in held_out.keys() & sums["path"].keys()):
            raise CorpusError(
                f"task.dev_path={self.dev_path}: {_listed(both)} is trained on, too (task.path="
                f"{self.path}); name other files in one of them"
            )

    def _rows(self, part: Files) -> Iterator["_Row"]:
        setting = "task.label_column"
        for place, row in part.rows():
            texts = tuple(
                text_of(row, column, "task.text_columns", place) for column in self.columns.texts
            )
            if not any(text.strip() for text in texts):
                named = f"task.text_columns=[{','.join(self.columns.texts)}]"
                raise CorpusError(f"{named}: {place} has no text; leave the row out")
            if self.columns.label not in row:
                text_of(row, self.columns.label, setting, place)  # says which there are
            yield (
                texts,
                self._label(row[self.columns.label], f"{setting}={self.columns.label}: {place}"),
            )

    def _label(self, value: Any, place: str) -> str | float:
        if value is None:
            raise CorpusError(f"{place} has no label; leave the row out")
        if self.columns.is_number:
            with contextlib.suppress(TypeError, ValueError):
                if not isinstance(value, bool) and math.isfinite(number := float(value)):
                    return number
            raise CorpusError(
                f"{place} has {value!r}, no number; put it right, or set task.regression=false"
            )
        if isinstance(value, float):
            raise CorpusError(
                f"{place} has {value}, no class; write classes as text or whole numbers, or set "
                "task.regression=true"
            )
        return str(value)

    def _names(self, train: Sequence["_Row"], dev: Sequence["_Row"]) -> tuple[Any, ...]:
        """Return the names of the classes in order: as numbers where all are whole ones.

        Of a regression the numbers that there are.
        """
        setting = f"task.label_column={self.columns.label}"
        counts = Counter(label for _, label in train)
        there = counts + Counter(label for _, label in dev)
        are_numbers = all(re.fullmatch(r"-?[0-9]+", str(name)) for name in there)
        names = sorted(there, key=int if are_numbers else None)
        if len(names) < 2:
            raise CorpusError(f"{setting}: all labels are {names[0]!r}; name another column")
        if self.columns.is_number:
            return tuple(names)
        if rare := [name for name in names if there[name] == 1]:
            raise CorpusError(
                f"{setting}: {_listed(rare)} occurs once among {len(names)} classes; give each "
                "more examples, or name another column"
            )
        if lacking := [name for name in names if not counts[name]]:
            raise CorpusError(
                f"{setting}: {_listed(lacking)} is in the dev part alone; give training examples"
            )
        return tuple(names)


_Row = tuple[tuple[str, ...], Any]


def _examples(
    rows: Sequence[_Row], numbers: Mapping[Any, float], remarks: Sequence[str] = ()
) -> Examples:
    labels = [numbers[label] for _, label in rows]
    return Examples([texts for texts, _ in rows], labels, [*remarks])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _drawn(texts: tuple[str, ...], share: float) -> bool:
    """Return whether a text is of the share: always the same, and the same for equal ones."""
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


PACKAGES = (
    *("datasets", "fontTools", "matplotlib", "networkx", "numpy"),
    *("pandas", "pyarrow", "sympy", "torch", "transformers"),
)
"""Ten packages that the project needs, with the most documentation."""


@dataclass(frozen=True)
class PackageTexts:
    """Paragraphs of `dwt_cli.data.docs`, with the package that each is from.

    packages: import names. num_train, num_heldout: at most so many paragraphs of each. The two
    parts have no source file in common, and no paragraph occurs twice.
    """

    packages: Sequence[str]
    num_train: int
    num_heldout: int

    def content(self) -> dict[str, Any]:
        """Return what determines the set: versions, how many paragraphs, the classes in order."""
        docs = Docs(self.packages, "task.packages").provenance()
        sizes = [self.num_train, self.num_heldout]
        return {**docs, "source": "packages", "sizes": sizes, "classes": list(self.packages)}

    def read(self) -> LabelledSet:
        """Return the whole set. Raises `CorpusError` for a package that is not there."""
        roots = Docs(self.packages, "task.packages").roots
        parts: tuple[list[_Row], list[_Row]] = ([], [])
        seen: set[bytes] = set()
        for name in self.packages:
            files = sorted(source_files(name, roots[name]), key=lambda file: _order(file[0]))
            of_files = ([(text,) for text in _paragraphs(*file, seen)] for file in files)
            for part, size in zip(parts, (self.num_heldout, self.num_train), strict=True):
                found: list[tuple[str, ...]] = []
                for texts in of_files:  # files that the part before has begun are its own
                    found += texts
                    if len(found) >= size:
                        break
                part += [(texts, name) for texts in islice(found, size)]
        heldout, train = parts
        numbers = {name: number for number, name in enumerate(self.packages)}
        for rows, number in ((train, self.num_train), (heldout, self.num_heldout)):
            there = Counter(label for _, label in rows)
            if lacking := [name for name in self.packages if not there[name]]:
                raise CorpusError(
                    f"task.packages=[{','.join(lacking)}]: no {number} paragraphs; choose others"
                )
        about = "from other source files"
        of = (_examples(train, numbers), {"": _examples(heldout, numbers)})
        return LabelledSet(tuple(self.packages), *of, about)


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _paragraphs(name: str, path: Any, seen: set[bytes]) -> Iterator[str]:
    """Yield a file's paragraphs that were not seen before, which are then."""
    for paragraph in chain.from_iterable(map(prose, documentation(name, path))):
        if (key := duplicate_key(paragraph)) not in seen:
            seen.add(key)
            if len(paragraph.split()) >= _MIN_WORDS:
                yield paragraph
