import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dwt_cli.data import docs
from dwt_cli.data.prose import prose
from dwt_cli.data.source import CorpusError


def test_every_docstring_that_ast_finds_is_found() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    compared = 0
    for path in sorted([*folder.glob("email/*.py"), *folder.glob("a*.py"), *folder.glob("t*.py")]):
        found = set(docs.documentation(path.name, path))
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


def test_documents_are_source_files_without_what_was_said_before(package: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = list(docs.Docs(["embedded"]).documents(lambda *call: calls.append(call)))
    assert [(document.name, document.paragraphs) for document in found] == [
        ("embedded/__init__.py", (PARAGRAPHS[0],)),
        ("embedded/sub/b.py", (PARAGRAPHS[1],)),
        ("embedded/sub/c.pyx", (PARAGRAPHS[3],)),
    ]
    assert calls == sorted(calls) and len(calls) > 2
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


def test_the_topics_of_pydoc_hold_english() -> None:
    name = "pydoc_data/topics.py"
    path = Path(sysconfig.get_path("stdlib")) / name
    found = [
        paragraph
        for text in docs.documentation(f"stdlib/{name}", path)
        for paragraph in prose(text)
    ]
    assert len(found) > 500
    assert sum(" the " in paragraph for paragraph in found) > 300
