"""The rules that tools can check: style, types, and which room may know which."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "dwt_cli", "benchmarks"],
        ["lint-imports"],
    ],
    ids=["ruff", "format", "mypy", "import-linter"],
)
def test_contract(command: list[str]) -> None:
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool is not None, f"{command[0]} is not installed beside {sys.executable}"
    answer = subprocess.run(
        [tool, *command[1:]], cwd=PROJECT, text=True, capture_output=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_ci_runs_the_readme_command() -> None:
    """What a reader copies and what the project is checked by are one command."""
    command = "pip install -c constraints.txt -e '.[test]' && pytest"
    assert f"\n{command}\n" in (PROJECT / "README.md").read_text()
    assert f"\n{command}\n" in (PROJECT / ".ci" / "run").read_text()
