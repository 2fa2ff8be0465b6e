"""What the pages say of the tree, and the tree."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz import REACHED, ask, prepared

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "dwt_cli"
PAGES = ["README.md", "CONTRIBUTING.md"]
EVERY_PAGE = [*PAGES, "conf/README.md", "sweeps/README.md"]


def rooms_of(page: str) -> list[str]:
    """Return the rooms in the tree that a page draws, from the top down."""
    text = (PROJECT / page).read_text()
    tree = next(block for block in text.split("```") if "\ndwt_cli/" in block)
    return re.findall(r"^  (\w+)/", tree, re.MULTILINE)


def rooms_of_the_contract() -> list[str]:
    """Return the layers that imports are held to, from the top down."""
    contract = (PROJECT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    return re.findall(r"\w+", contract)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_draws_the_rooms_there_are_in_the_order_of_their_imports(page: str) -> None:
    rooms = rooms_of(page)
    assert sorted(rooms) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert rooms == rooms_of_the_contract()


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_the_modules_that_a_page_names_exist(page: str) -> None:
    text = (PROJECT / page).read_text()
    named = set(re.findall(r"`((?:dwt_cli/|tests/|benchmarks/)?[a-z_]+(?:/[a-z_]+)*\.py)`", text))
    assert named or page != "CONTRIBUTING.md"
    for path in named:
        assert (PROJECT / path).is_file() or (PACKAGE / path).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_nothing_stands_at_the_top_but_rooms(page: str) -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*rooms_of(page), "__init__.py", "py.typed"}


# ------------------------------------------------------------------------ the commands they show

NOT_HERE = {
    "...": "words that are said elsewhere",
    "google-bert/": "the hub",
    "HuggingFaceTB/": "the hub",
    "torchrun": "another program",
    "eval ": "another program",
    "=GLUE": "files that are not here: tests/recipe/test_labelled.py",
    "=train.": "files that are not here: tests/recipe/test_labelled.py",
    "=books/": "files that are not here: tests/data/test_files.py",
    "=corpus.jsonl": "files that are not here: tests/data/test_files.py",
    "--score": "forecasts that are not here: tests/launch/test_advice.py",
    "dwt-report runs/": "a study that is not here: tests/study/test_report.py",
    "signal=imported": "a decoder and files that are not here: tests/recipe/test_imported.py",
    "vocabulary=transfer": "a teacher as wide as the student: tests/recipe/test_vocabularies.py",
}


def commands(page: str) -> Iterator[str]:
    """Yield the project's own commands in a page's blocks, without comments."""
    for block in re.findall(r"```bash\n(.*?)```", (PROJECT / page).read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("dwt-"):
                yield shlex.join(shlex.split(line, comments=True))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with prepared() as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", dict.fromkeys(each for page in EVERY_PAGE for each in commands(page))
)
def test_a_command_that_is_shown_is_answered(command: str, place: Path) -> None:
    if words := [word for word in NOT_HERE if word in command]:
        pytest.skip(NOT_HERE[words[0]])
    here = re.sub(r"data\.path=(DIR|NEW_TEXT)\b", "data.path=text", command)
    here = re.sub(r"\bDIR\b", "model", here)
    answer = ask(shlex.split(here), place, 0)
    assert answer.code in (0, REACHED) and not answer.wrong, answer.errors
