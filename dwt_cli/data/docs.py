"""The demo's text: English prose out of the documentation that is installed with the project.

A first run needs no download and no file of its own. Python source files carry documentation in
triple-quoted strings and in comments of several lines. Both are found by a scan for literals and
comments, which takes four seconds for 180 MB of source (`ast.parse` takes over ten times as long,
drops the comments and stops at syntax newer than the running Python), reads Cython sources and
stubs too, and never imports what it reads. Not only docstrings count: torch and numpy hand many of
theirs to `add_docstr(...)` as arguments. `dwt_cli.data.prose` keeps what is English.
"""

import ast
import importlib.util
import inspect
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path
from typing import Any

from dwt_cli.data.prose import duplicate_key, prose
from dwt_cli.data.source import CorpusError, Document, Progress, Source

CLEANER_VERSION = 1
"""Raise it with every change that changes the text: it is part of the cache fingerprint."""

DEFAULT_PACKAGES = (
    *("PIL", "click", "datasets", "dateutil", "fontTools", "fsspec", "huggingface_hub", "hydra"),
    *("jinja2", "matplotlib", "mpmath", "networkx", "numpy", "omegaconf", "pandas", "pyarrow"),
    *("pydantic", "pyparsing", "rich", "sympy", "tokenizers", "torch", "transformers", "wandb"),
)
"""The project's dependencies and what they bring along, by import name."""

SUFFIXES = (".py", ".pyi", ".pyx", ".pxi")
SKIPPED_FOLDERS = frozenset(
    ("__pycache__", "_vendor", "dist-packages", "idle_test", "site-packages", "test", "tests")
)
_distributions = cache(packages_distributions)  # it reads what each of them has installed


class Docs(Source):
    """Documentation of the standard library and of `packages` as a source.

    `packages` are import names; none stands for DEFAULT_PACKAGES.
    One document per source file, named like `transformers/models/bert/modeling_bert.py` or
    `stdlib/argparse.py`; paragraphs that occurred before are left out, the first in name order
    stays. Raises CorpusError, which names ``setting``, at once when a package is not installed.
    """

    def __init__(self, packages: Sequence[str] = (), setting: str = "data.packages") -> None:
        self.packages = tuple(sorted(set(packages or DEFAULT_PACKAGES)))
        self.roots = {name: _package_roots(name, setting) for name in self.packages}
        self.roots["stdlib"] = [Path(sysconfig.get_path("stdlib"))]

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents in name order; progress counts source files."""
        files = sorted(
            file for name, roots in self.roots.items() for file in source_files(name, roots)
        )
        seen: set[bytes] = set()
        for number, (name, path) in enumerate(files, start=1):
            kept = []
            for paragraph in chain.from_iterable(map(prose, documentation(name, path))):
                if (key := duplicate_key(paragraph)) not in seen:
                    seen.add(key)
                    kept.append(paragraph)
            if kept:
                yield Document(name, tuple(kept))
            progress(number, len(files))

    def provenance(self) -> dict[str, Any]:
        """Return the versions of Python, of the cleaner and of the packages ("": unknown)."""
        found = _distributions()
        return {
            "source": "docs",
            "cleaner": CLEANER_VERSION,
            "python": platform.python_version(),
            "packages": {
                name: " ".join(f"{each} {version(each)}" for each in sorted({*found.get(name, ())}))
                for name in self.packages
            },
        }


def _package_roots(name: str, setting: str) -> list[Path]:
    """Return the folders of an importable package, or the file of one that is a single file."""
    # find_spec("a.b") would import a
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None:
        raise CorpusError(
            f"{setting}={name}: no such package is installed; install it or leave it out "
            "(import names, such as PIL for pillow)"
        )
    if spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.has_location else []


def source_files(name: str, roots: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the source files of a package by name, without its tests and what it has vendored."""
    for root in roots:
        if root.is_file():
            yield f"{name}/{root.name}", root
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = set(subfolders) - SKIPPED_FOLDERS
            for path in (Path(folder, file) for file in names if file.endswith(SUFFIXES)):
                yield f"{name}/{path.relative_to(root).as_posix()}", path


_LITERAL = re.compile(
    r"""\#.*+(?:\n[ \t]*+\#.*+)*+
    |\"\"\"(?:[^"\\]++|\\[\s\S]|"(?!""))*+\"\"\"
    |'''(?:[^'\\]++|\\[\s\S]|'(?!''))*+'''
    |"(?:[^"\\\n]++|\\[\s\S])*+"
    |'(?:[^'\\\n]++|\\[\s\S])*+'""",
    re.VERBOSE,
)
_PREFIX = re.compile(r"(?<!\w)[rRuU]?\Z")
"""What may stand before the quotes: an f-string or bytes are no documentation."""
_COMMENT_SIGN = re.compile(r"^[ \t]*#+[:!|]?", re.MULTILINE)


def documentation(name: str, path: Path) -> Iterator[str]:
    """Yield the documentation strings of a file, dedented; none of a file that is not UTF-8."""
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if name == "stdlib/pydoc_data/topics.py":
        # its texts are the values of a dict, in some versions one literal per line
        yield from ast.literal_eval(source.partition("topics = ")[2]).values()
        return
    for match in _LITERAL.finditer(source):
        literal = match.group()
        if literal.startswith("#"):
            before = source[source.rfind("\n", 0, match.start()) + 1 : match.start()]
            if before.strip():  # a remark behind code
                literal = literal.partition("\n")[2]
            if "\n" in literal and "Copyright" not in literal:
                yield inspect.cleandoc(_COMMENT_SIGN.sub("", literal))
        elif len(literal) > 30 and literal.startswith(('"""', "'''")):
            prefix = _PREFIX.search(source, max(0, match.start() - 2), match.start())
            text = _evaluated(literal, prefix.group()) if prefix else ""
            if text:
                yield inspect.cleandoc(text)


def _evaluated(literal: str, prefix: str) -> str:
    """Return the text of a triple-quoted literal; "" when Python would not read it."""
    if "\\" not in literal or prefix in ("r", "R"):
        return literal[3:-3]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        return ""
