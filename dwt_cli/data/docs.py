"""The embedded text: English prose out of the documentation that is installed with the project.

Python source files carry documentation in triple-quoted strings and in comments of several lines.
Both are found by a scan for literals and comments, which takes about two seconds for 190 MB of
source (`ast.parse` takes over ten times as long, drops the comments and stops at syntax newer
than the running Python), reads Cython sources and stubs too, and never imports what it reads. Not
only docstrings count: torch and numpy hand many of theirs to `add_docstr(...)` as arguments.
"""

import ast
import contextlib
import html
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import signal
import sysconfig
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from dwt_cli.data.source import CorpusError, Document, Progress

CLEANER_VERSION = 1
"""Raise it with every change that changes the text: it is part of the cache fingerprint."""

DEFAULT_PACKAGES = (
    "PIL",
    "click",
    "datasets",
    "dateutil",
    "fontTools",
    "fsspec",
    "huggingface_hub",
    "hydra",
    "jinja2",
    "matplotlib",
    "mpmath",
    "networkx",
    "numpy",
    "omegaconf",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyparsing",
    "rich",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "wandb",
)
"""The project's dependencies and what they bring along, by import name."""

SUFFIXES = (".py", ".pyi", ".pyx", ".pxi")
SKIPPED_FOLDERS = frozenset(
    ("__pycache__", "_vendor", "dist-packages", "idle_test", "site-packages", "test", "tests")
)
CHUNK_BYTES = 1_500_000
"""Source bytes per task: small enough to share evenly, large enough to hide its overhead."""


class Docs:
    """Documentation of the standard library and of `packages` as a source.

    `packages` are import names; none stands for DEFAULT_PACKAGES.
    One document per source file, named like `transformers/models/bert/modeling_bert.py` or
    `stdlib/argparse.py`; paragraphs that occurred before are left out, the first in name order
    stays. Raises CorpusError at once when a package is not installed.
    """

    def __init__(self, packages: Sequence[str] = ()) -> None:
        self.packages = tuple(sorted(set(packages or DEFAULT_PACKAGES)))
        self._roots = {name: _package_roots(name) for name in self.packages}
        self._roots["stdlib"] = [Path(sysconfig.get_path("stdlib"))]

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents in name order; progress counts source bytes."""
        files = sorted(
            file for name, roots in self._roots.items() for file in _source_files(name, roots)
        )
        total = sum(file.size for file in files)
        done = 0
        seen: set[bytes] = set()
        progress(0, total)
        for chunk, cleaned in _in_processes(list(_chunks(files))):
            for file, paragraphs in zip(chunk, cleaned, strict=True):
                kept = []
                for key, paragraph in paragraphs:
                    if key not in seen:
                        seen.add(key)
                        kept.append(paragraph)
                done += file.size
                if kept:
                    yield Document(file.name, tuple(kept))
            progress(done, total)

    def provenance(self) -> dict[str, Any]:
        """Versions of Python, of the cleaner and of the packages (empty where unknown)."""
        return {
            "source": "docs",
            "cleaner": CLEANER_VERSION,
            "python": platform.python_version(),
            "packages": _versions(self.packages),
        }


# --- files ---------------------------------------------------------------------------------------


class _File(NamedTuple):
    name: str
    path: Path
    size: int


def _package_roots(name: str) -> list[Path]:
    """The folders of an importable package; one that is a single file has no documents."""
    # find_spec("a.b") would import a
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None:
        raise CorpusError(
            f"data.packages={name}: no such package is installed; install it or leave it out "
            "(import names, such as PIL for pillow)"
        )
    if spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.has_location else []


def _source_files(name: str, roots: Iterable[Path]) -> Iterator[_File]:
    for root in roots:
        if root.is_file():
            yield _File(f"{name}/{root.name}", root, root.stat().st_size)
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
            for path in (Path(folder, file) for file in names if file.endswith(SUFFIXES)):
                size = path.stat().st_size
                yield _File(f"{name}/{path.relative_to(root).as_posix()}", path, size)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    distributions = importlib.metadata.packages_distributions()
    return {
        package: " ".join(
            f"{distribution} {importlib.metadata.version(distribution)}"
            for distribution in sorted(set(distributions.get(package, ())))
        )
        for package in packages
    }


# --- processes -----------------------------------------------------------------------------------

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # which reach a whole process group

Cleaned = list[list[tuple[bytes, str]]]
"""Per file: its paragraphs with the key by which duplicates are recognised."""


def _chunks(files: Sequence[_File]) -> Iterator[list[_File]]:
    chunk: list[_File] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += file.size
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_processes(chunks: list[list[_File]]) -> Iterator[tuple[list[_File], Cleaned]]:
    """Clean the chunks on all cores; results in the order of the chunks."""
    # spawn, since the parent may have loaded torch, whose threads do not survive a fork
    with _signals_held_back():  # for good, in the process that multiprocessing cleans up with
        pool = ProcessPoolExecutor(
            min(8, _cores(), len(chunks) or 1), mp_context=get_context("spawn"), initializer=_start
        )
    try:
        with _signals_held_back():  # in a worker, until it has come as far as `_start`
            results = pool.map(_clean_files, chunks)
        yield from zip(chunks, results, strict=True)
    finally:
        with _signals_held_back():  # interrupted here, it would wait for ever
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


def _clean_files(files: Sequence[_File]) -> Cleaned:
    return [
        [
            (duplicate_key(paragraph), paragraph)
            for text in documentation(file)
            for paragraph in prose(text)
        ]
        for file in files
    ]


_WORDS = re.compile(r"\w+")


def duplicate_key(paragraph: str) -> bytes:
    """Equal for paragraphs that differ in case, spacing, punctuation, digits or identifiers only.

    "The bare BertModel outputs ..." and "The bare GPT2Model outputs ..." are one paragraph.
    """
    words = [
        word.lower() if word.isalpha() and (word[1:].islower() or len(word) == 1) else "0"
        for word in _WORDS.findall(paragraph)
    ]
    return blake2b(" ".join(words).encode(), digest_size=8).digest()


# --- source file -> documentation strings --------------------------------------------------------

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


def documentation(file: _File) -> Iterator[str]:
    """The documentation strings of a file, dedented; none for a file that is not UTF-8."""
    try:
        source = file.path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    if file.name == "stdlib/pydoc_data/topics.py":
        # its texts are strings in a dict, in some versions one literal per line
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
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


_COMMENT_SIGN = re.compile(r"^[ \t]*#+[:!|]?", re.MULTILINE)


def _evaluated(literal: str, prefix: str) -> str:
    """The text of a triple-quoted literal; empty when Python would not read it."""
    if "\\" not in literal or prefix in ("r", "R"):
        return literal[3:-3]
    try:
        return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        return ""


# --- documentation string -> paragraphs ----------------------------------------------------------

_RULE = re.compile(r"([=\-~^\"'#*+.`:_])\1{2,}\Z|[=\-+|: ]{4,}\Z")
_BULLET = re.compile(r"(?:[-*+•]|\(?(?:\d{1,2}|[a-z]|#)[.)])\s+")
_FIELD = re.compile(
    r"""(?:
      :(?:param|parameter|arg|argument|key|keyword|raises?|except|returns?|yields?|ivar|cvar|var)
        \b[^:]*:
      |@(?:param|return|raises?)\b:?\s*\w*
      |\*{0,2}[`"']*[\w.*/\-]+[`"']*\*{0,2}(?:\s*\((?:[^()]|\([^()]*\))*\))?\s*(?::(?!:)|--)
    )(?:\s+|\Z)""",
    re.VERBOSE,
)
"""The name before a description: `:param x: `, `x (int, *optional*): `, `x -- `, `x : `."""
_TYPE_FIELD = re.compile(r":(?:r?type|vartype|meta)\b")
_TERM = re.compile(r".*(?:\s:\s|\(`|:\Z|\)\Z)|\S+(?:,?\s+\S+){0,3}\Z")
"""The line above an indented description, as in numpy's `x : array_like`."""
_HEADING = re.compile(r"[A-Z][a-z]+:\Z|:r?type\b")
"""Google's `Args:`, Sphinx' `:type x: int`: no part of the paragraph above."""
_TYPED = re.compile(r"\S+(?:,\s+\S+)*\s:(?:\s+\S+){1,8}\Z")
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+)::\s*(.*)")
_VERSIONED = ("deprecated", "versionadded", "versionchanged", "versionremoved")
_PROSE_DIRECTIVES = (
    *("admonition", "attention", "caution", "danger", "hint", "important", "note", "seealso"),
    *("tip", "topic", "warning"),
    *_VERSIONED,
)


def prose(text: str) -> Iterator[str]:
    """The paragraphs of a dedented documentation string that are English prose."""
    for raw in _paragraphs(text):
        paragraph = _plain(raw)
        if _is_prose(paragraph):
            yield paragraph


def _paragraphs(text: str) -> Iterator[str]:
    """Wrapped lines joined; without code, doctests, tables, directives, headings, signatures."""
    lines = text.expandtabs().splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines]
    lines = [line.strip() for line in lines]
    paragraph: list[str] = []
    margin = 0  # of the paragraph's last line
    hanging = False  # the paragraph's further lines may be indented deeper than its first
    fenced = False
    until_blank = False  # inside a doctest or a table
    deeper_than: int | None = None  # skip the block that is indented deeper than this

    for number, (line, indent) in enumerate(zip(lines, indents, strict=True)):
        joined = ""
        if line.startswith("```"):
            fenced = not fenced and not (len(line) > 5 and line.endswith("```"))
            joined, paragraph = " ".join(paragraph), []
        elif fenced:
            continue
        elif not line:
            until_blank = False
            joined, paragraph = " ".join(paragraph), []
        elif until_blank or (deeper_than is not None and indent > deeper_than):
            continue
        elif line.startswith((">>>", "In [", "Out[", "$ ", "% ", "# ")):
            joined, paragraph, until_blank = " ".join(paragraph), [], not line.startswith("#")
        elif _RULE.match(line):
            paragraph = paragraph[:-1]  # the heading above the rule
            joined, paragraph = " ".join(paragraph), []
            until_blank = " " in line or line.startswith(("+", "|"))
        elif line.startswith(("|", "+-", "+=", "<!--")):
            joined, paragraph = " ".join(paragraph), []
        elif line == ".." or line.startswith(".. "):
            joined, paragraph = " ".join(paragraph), []
            directive = _DIRECTIVE.match(line)
            if directive and directive.group(1) in _PROSE_DIRECTIVES:
                deeper_than = None
                rest = directive.group(2)
                if directive.group(1) in _VERSIONED:
                    rest = rest.partition(" ")[2]
                if rest:
                    paragraph, margin, hanging = [rest], indent, True
            else:
                deeper_than = indent
        else:
            deeper_than = None
            bullet = _BULLET.match(line)
            continues = bool(paragraph) and not bullet and (indent == margin or hanging)
            if continues and hanging and indent <= margin:
                continues = indent == margin and not _FIELD.match(line)
            continues = continues and not _HEADING.match(line)
            if continues:
                paragraph.append(line)
                # after the second line of a hanging paragraph the margin is fixed
                hanging = hanging and indent == margin
            else:
                joined = " ".join(paragraph)
                is_last = number + 1 == len(lines) or not lines[number + 1]
                opening = _opening(line, not is_last and indents[number + 1] > indent)
                paragraph = [opening] if opening else []
                hanging = bool(bullet) or opening != line
            margin = indent
            if line.endswith("::"):
                deeper_than = indent
        if joined:
            yield joined
    if paragraph:
        yield " ".join(paragraph)


def _opening(line: str, above_indented: bool) -> str:
    """What the first line of a paragraph says, without bullet and field name."""
    if _TYPE_FIELD.match(line):
        return ""
    bullet = _BULLET.match(line)
    if bullet:
        line = line[bullet.end() :]
    field = _FIELD.match(line)
    if above_indented and not bullet and (_TYPED if field else _TERM).match(line):
        return ""
    return line[field.end() :] if field else line


_MATH = re.compile(r":math:`[^`]*`|\$[^$\s][^$]*\$|\\\(.*?\\\)|\\[a-zA-Z]{2,}")
_ROLE = re.compile(r":[a-zA-Z][\w:.+-]*:(?=`)")
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?:[^()\s]|\([^()]*\))*\)")
_REFERENCE = re.compile(r"\s?\[(?:\d+|#\w*|[A-Z][\w+-]*\d{2,4}\w?)\]_?(?!\()")
_CODE = re.compile(r"`{1,2}([^`]+)`{1,2}(?:__?\b)?")
_BRACKETED = re.compile(r"\[`([^`]*)`\]")
_STRONG = re.compile(r"(?<![\w*])(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1(?![\w*])")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_URL_IN_PARENTHESES = re.compile(r"\s*(?:\(|<)(?:see |from )?(?:https?|ftp)://[^\s()<>]*(?:\)|>)")
_ESCAPE = re.compile(r"\\([*_`|<>\[\]])")
_SUSPECT = re.compile(r"[=<>\\{}$#|\[/&;\0]|\)\.|www")
_SENTENCE_END = re.compile(r"(?<=[a-z\d)\]\"'][.!?])\s+(?=[A-Z])")
_CODE_LIKE = re.compile(
    r"https?://|www\.|\\|\w\(\S*\)\.|[{}<>=]{2}|[\w)\]]=[\w\"'(\[{-]|\w\[\S*\]\[|->|=>|\$\w|\x00"
    r"|;\s*$|\|\||&&|\s[=<>]\s.*\s[=<>]\s|#\s|\s/\s.*\s/\s|[{}]"
)


def _plain(text: str) -> str:
    """Markup down to its text; sentences with formulas, addresses or code are left out."""
    # the tests in front are the difference between 20 and 5 microseconds per paragraph
    if "$" in text or "\\" in text or ":math:" in text:
        text = _ESCAPE.sub(r"\1", _MATH.sub("\0", text))
    if "`" in text:
        text = _BRACKETED.sub(r"`\1`", text)
        text = _ROLE.sub("", text)
        text = _CODE.sub(_code_text, text)
    if "](" in text:
        text = _LINK.sub(r"\1", text)
    if "://" in text:
        text = _URL_IN_PARENTHESES.sub("", text)
    if "<" in text:
        text = _TAG.sub("", text)
    if "[" in text:
        text = _REFERENCE.sub("", text)
    if "*" in text:
        text = _STRONG.sub(r"\2", text)
    if "&" in text:
        text = html.unescape(text)
    text = " ".join(text.replace("``", '"').replace("::", ":").split())
    if _SUSPECT.search(text) and _CODE_LIKE.search(text):
        text = " ".join(s for s in _SENTENCE_END.split(text) if not _CODE_LIKE.search(s))
    return text


def _code_text(match: re.Match[str]) -> str:
    """`~a.b.C` is C, `the text <target>` is the text, `!x` is x."""
    text = match.group(1)
    if text.startswith("~"):
        return text.rpartition(".")[2].lstrip("~")
    if text.endswith(">") and "<" in text:
        title = text[: text.rindex("<")].strip()
        return title or text[1:-1]
    return text.lstrip("!")


_COMMON_WORDS = (
    "a an and any are as at be been but by can do does each for from has have if in into is it "
    "its may more must no not of on only or other should so such than that the their them then "
    "there these they this to use used using was we when where whether which will with you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_WORD = re.compile(r"[(\"'\[]*[A-Za-z]+(?:[-'’/][A-Za-z]+)*[.,;:!?)\"'\]]*\Z")


def _is_prose(text: str) -> bool:
    """At least 5 words, nearly all of them plain ones, enough of them function words."""
    if len(text) < 20 or not (text[0].isalnum() or text[0] in "\"'("):
        return False
    words = text.split(" ")
    count = len(words)
    if count < 5:
        return False
    ended = text.endswith((".", "!", "?", ":", '."', ".)"))
    if not ended and (count < 7 or text[0].islower()):
        return False
    plain = sum(1 for word in words if _WORD.match(word))
    if plain < (0.75 if ended else 0.85) * count:
        return False
    common = sum(1 for word in words if word.lower() in _COMMON)
    return common >= max(1, 0.14 * count)
