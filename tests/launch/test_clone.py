"""The code of one commit, whatever is edited meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.launch import clone
from tests.miniature import options, write_text

PROJECT = Path(__file__).parents[2]


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    done = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(done, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two commits, which this module seems to be in."""
    module = tmp_path / "project" / "dwt_cli" / "launch" / "clone.py"
    module.parent.mkdir(parents=True)
    git(tmp_path, "init", "--quiet", "project")
    for content in ("old", "new"):
        module.write_text(content)
        git(tmp_path / "project", "add", ".")
        git(tmp_path / "project", "commit", "--quiet", "--message", content)
    monkeypatch.setattr(clone, "__file__", str(module))
    return tmp_path / "project"


def test_the_same_command_goes_on_in_a_clone(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen: list[tuple[list[str], Path]] = []
    monkeypatch.setenv("PYTHONPATH", "before")

    def become(program: str, command: list[str], environment: dict[str, str]) -> None:
        place, *rest = environment["PYTHONPATH"].split(os.pathsep)
        assert (program, rest, environment["PYTHONSAFEPATH"]) == (sys.executable, ["before"], "1")
        seen.append((command[1:], Path(place)))

    monkeypatch.setattr(os, "execve", become)
    cache, said = Cache(str(tmp_path / "cache"), print), clone.__file__
    for wanted, content in (("HEAD~1", "old"), ("HEAD", "new"), ("HEAD", "new")):
        clone.go_on(wanted, cache, ["-m", "seed=0,1"])
        command, place = seen[-1]
        assert command == ["-m", "dwt_cli.cli", "-m", "seed=0,1"]
        assert (place / "dwt_cli/launch/clone.py").read_text() == content
        assert git(place, "describe", "--always", "--dirty") in git(checkout, "rev-parse", wanted)
    assert seen[1] == seen[2] and capsys.readouterr().err == ""
    Path(said).write_text("edited")
    clone.go_on("HEAD", cache, [])
    assert "warning: jobs.clone=HEAD: 1 files have changes" in capsys.readouterr().err
    assert (seen[-1][1] / "dwt_cli/launch/clone.py").read_text() == "new"
    monkeypatch.setattr(clone, "__file__", str(seen[-1][1] / "dwt_cli/launch/clone.py"))
    around = Cache(str(tmp_path / "cache" / ".." / "cache"), print)
    for wanted in ("HEAD", "HEAD~1"):  # which this clone does not have
        clone.go_on(wanted, around, [])
    assert len(seen) == 4, "it is there already"


def test_without_a_commit_it_is_one_line(checkout: Path, tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "cache"), print)
    with pytest.raises(UserError, match=r"^jobs.clone=never: there is no such commit[^\n]*$"):
        clone.go_on("never", cache, [])
    (checkout / ".git").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^jobs.clone=HEAD: this package is no git checkout"):
        clone.go_on("HEAD", cache, [])


@pytest.mark.slow
def test_code_that_is_edited_does_not_mix_in(tmp_path: Path) -> None:
    """The checkout is broken as soon as it is committed, and the runs are of the commit."""
    git(tmp_path, "clone", "--quiet", "--shared", str(PROJECT), "project")
    (tmp_path / "project/dwt_cli/recipe/worker.py").write_text("raise ValueError('edited')")
    write_text(tmp_path / "text")
    words = ["-m", *options(tmp_path), "teacher=none", "seed=0,1", "jobs.clone=HEAD"]
    done = subprocess.run(
        [sys.executable, "-m", "dwt_cli.cli", *words],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path / "project",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "project")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/environment.json")]
    commit = git(tmp_path / "project", "rev-parse", "HEAD")
    assert [each["commit"] for each in found] == [commit, commit]
