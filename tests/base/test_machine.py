"""What a record says of the machine and the code that it was made by."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import dwt_cli
from dwt_cli.base.machine import Machine, commit

CODE = "from dwt_cli.base import machine; print(machine.commit())"


def test_the_commit_of_a_checkout_is_recorded() -> None:
    machine = Machine(torch.device("cpu"), torch.float32)
    assert machine.describe()["commit"] == commit()
    root = Path(dwt_cli.__file__).parents[1]
    if (root / ".git").exists():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        assert re.fullmatch(rf"{head.stdout.strip()}(-dirty)?", commit())


@pytest.mark.slow
def test_of_a_package_without_one_it_is_the_version(tmp_path: Path) -> None:
    """Even where the packages lie in somebody else's checkout."""
    package = Path(dwt_cli.__file__).parent
    shutil.copytree(package, tmp_path / "site" / "dwt_cli", ignore=shutil.ignore_patterns("__pyc*"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    told = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path / "site", capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert told.stdout.strip() == version("dwt-cli")


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_give_up_a_core_soon_unless_their_user_has_a_wish(
    environment: dict[str, str], count: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    importlib.reload(dwt_cli)
    assert os.environ.get("GOMP_SPINCOUNT") == count
