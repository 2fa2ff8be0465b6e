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
        ["mypy", "dwt_cli", "benchmarks"],
        ["lint-imports"],
    ],
    ids=["ruff", "mypy", "import-linter"],
)
def test_contract(command: list[str]) -> None:
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool is not None, f"{command[0]} is not installed beside {sys.executable}"
    answer = subprocess.run(
        [tool, *command[1:]], cwd=PROJECT, text=True, capture_output=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
