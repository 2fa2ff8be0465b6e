import ast
import inspect
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from dwt_cli.data import docs
from dwt_cli.data.source import CorpusError

NUMPY_STYLE = """
Compute the weighted average along the specified axis.

.. versionadded:: 1.3

Parameters
----------
a : array_like
    Array containing the data to be averaged, which may be
    :class:`~pack.Masked` or ``nested``.
axis : None or int, optional
    Axis along which to average `a`. See [the guide](https://x.org/y) first.

Returns
-------
average : float
    The average along the specified axis [1]_.

Notes
-----
It is *not* the same as a median::

    total = sum(a) / len(a)

.. note:: The weights should never be negative in this function.

.. code-block:: python

    this should never be read as a sentence of the text

=====  ==========
name   meaning of the name in the table
=====  ==========

>>> average([1, 2])
this is the output of an example in the docstring

References
----------
.. [1] A. Author, "The book of the averages", in the press of the city.
"""
NUMPY_PROSE = [
    "Compute the weighted average along the specified axis.",
    "Array containing the data to be averaged, which may be Masked or nested.",
    "Axis along which to average a. See the guide first.",
    "The average along the specified axis.",
    "It is not the same as a median:",
    "The weights should never be negative in this function.",
]

GOOGLE_STYLE = """
Builds a mask from the lengths. It is $\\frac{a}{b}$ of a formula. The rest of it stays here.

Args:
    lengths (`torch.Tensor` of shape `(batch,)`, *optional*): The number of tokens that
        are in use in [`Model`].
    dtype: The type that the mask is made of.
    other (`bool`):
        Whether the mask is inverted before it is returned.

Returns:
    `torch.Tensor`: A mask that is true for the tokens in use.

```python
that is the code of an example, which is to be left out
```

- the first bullet is a sentence that goes on
  in the second line.
- The second of the bullets is here too.
:param x: The last of the parameters is this.
:type x: int or the name of a type
"""
GOOGLE_PROSE = [
    "Builds a mask from the lengths. The rest of it stays here.",
    "The number of tokens that are in use in Model.",
    "The type that the mask is made of.",
    "Whether the mask is inverted before it is returned.",
    "A mask that is true for the tokens in use.",
    "the first bullet is a sentence that goes on in the second line.",
    "The second of the bullets is here too.",
    "The last of the parameters is this.",
]


@pytest.mark.parametrize(
    ("text", "expected"), [(NUMPY_STYLE, NUMPY_PROSE), (GOOGLE_STYLE, GOOGLE_PROSE)]
)
def test_prose_is_what_a_reader_would_read_aloud(text: str, expected: list[str]) -> None:
    assert list(docs.prose(inspect.cleandoc(text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x = [a for b in c if d is not e]",
        "usage: prog [-h] [--foo FOO] {a,b} ...",
        "alpha beta gamma delta epsilon zeta eta theta",
        "0.1 0.2 0.3 0.4 0.5 0.6 0.7 and the 0.9",
        "Too short a text",
    ],
)
def test_what_is_no_sentence_is_left_out(text: str) -> None:
    assert list(docs.prose(text)) == []


def test_every_docstring_that_ast_finds_is_found() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    compared = 0
    for path in sorted([*folder.glob("email/*.py"), *folder.glob("a*.py"), *folder.glob("t*.py")]):
        file = docs._File(path.name, path, 0)
        found = set(docs.documentation(file))
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 40 and '"""' in lines[node.body[0].lineno - 1]:
                    assert text in found, (path, text[:80])
                    compared += 1
    assert compared > 300


PARAGRAPHS = [f"The {word} paragraph is long enough to be kept in the corpus." for word in "abcdef"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported, beside an empty standard library."""
    folder = tmp_path / "site" / "embedded"
    (folder / "sub" / "tests").mkdir(parents=True)
    (tmp_path / "stdlib").mkdir()
    (folder / "__init__.py").write_text(f'"""{PARAGRAPHS[0]}"""\nraise SystemExit("imported")\n')
    again = PARAGRAPHS[0].replace(" a ", " A ").replace("long", " long ")
    (folder / "sub" / "b.py").write_text(
        f'def f(): """{again}"""\n\ng(f, r"""{PARAGRAPHS[1]}""")\nh(f"""{PARAGRAPHS[2]}""")\n'
    )
    (folder / "sub" / "c.pyx").write_text(
        "cdef int x  # a remark\n    # The d paragraph is long enough\n"
        "    # to be kept in the corpus.\ny = 1\n# This is a comment of one line in the file.\n"
    )
    (folder / "sub" / "tests" / "d.py").write_text(f'"""{PARAGRAPHS[4]}"""\n')
    (folder / "sub" / "e.py").write_bytes(b'"""The caf\xe9 is not in UTF-8 in this file."""')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "stdlib"))
    return folder


def test_documents_are_source_files_without_what_was_said_before(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "CHUNK_BYTES", 100)  # several tasks
    calls: list[tuple[int, int]] = []
    found = list(docs.Docs(["embedded"]).documents(lambda *call: calls.append(call)))
    assert [(document.name, document.paragraphs) for document in found] == [
        ("embedded/__init__.py", (PARAGRAPHS[0],)),
        ("embedded/sub/b.py", (PARAGRAPHS[1],)),
        ("embedded/sub/c.pyx", (PARAGRAPHS[3],)),
    ]
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0
    assert "embedded" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package_1", "os.path", "no package"])
def test_a_missing_package_is_named(name: str) -> None:
    with pytest.raises(CorpusError, match=f"data.packages={name}: .* install it or leave it out"):
        docs.Docs([name])


def test_provenance_holds_versions_and_no_paths() -> None:
    found = docs.Docs(["yaml", "numpy"]).provenance()
    assert found["packages"].keys() == {"numpy", "yaml"}
    assert found["packages"]["yaml"].lower().startswith("pyyaml ")
    assert found["cleaner"] == docs.CLEANER_VERSION
    assert "/" not in str(found)
    assert found == docs.Docs(["numpy", "yaml", "yaml"]).provenance()


def test_no_packages_stand_for_the_default_ones() -> None:
    assert docs.Docs([]).packages == tuple(sorted(docs.DEFAULT_PACKAGES))


def test_importing_it_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, dwt_cli.data.docs, dwt_cli.data.files, dwt_cli.data.hub\n"
        "sys.exit(bool({'torch', 'numpy', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BUILDER = """
import multiprocessing, time
from dwt_cli.data import docs

if __name__ == "__main__":
    docs.CHUNK_BYTES = 100_000
    documents = docs.Docs(["click"]).documents(lambda done, total: None)
    next(documents)
    time.sleep({wait})
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("wait", [0, 2], ids=["busy", "idle"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_go_when_the_parent_goes(tmp_path: Path, number: signal.Signals, wait: int) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILDER.format(wait=wait))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers
    if number is signal.SIGINT:  # a terminal sends it to the whole group
        os.killpg(parent.pid, number)
    else:
        os.kill(parent.pid, number)
    _, errors = parent.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while (alive := [pid for pid in workers if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    assert errors.count("Traceback") == (number is signal.SIGINT), errors


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie in a container without init is gone, too
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_the_topics_of_pydoc_hold_english() -> None:
    name = "pydoc_data/topics.py"
    path = Path(sysconfig.get_path("stdlib")) / name
    found = [
        paragraph
        for text in docs.documentation(docs._File(f"stdlib/{name}", path, 0))
        for paragraph in docs.prose(text)
    ]
    assert len(found) > 500
    assert sum(" the " in paragraph for paragraph in found) > 300
