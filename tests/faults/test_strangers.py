"""What others give is read without trust, and what they are given says nothing of this machine."""

import ast
import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.home import INSTEAD, for_a_shell, with_home, without_home
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.checkpoint import open_config, open_model
from dwt_cli.models.options import Head
from dwt_cli.recipe.record import last_part
from dwt_cli.study import figures
from dwt_cli.study.chain import ChainRecord, Link, write_chain
from dwt_cli.study.record import read_study, write_study
from dwt_cli.study.report import write_report
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.track.card import model_card
from tests.conftest import outlined, tiny_architecture
from tests.miniature import options, write_text
from tests.processes import dwt_train
from tests.study import miniature
from tests.track.test_card import SUMMARY

PROJECT = Path(__file__).parents[2]
EVIL = "a|b <script>alert(1)</script> ![x](../../secret.png) [y](http://z) `"


# ------------------------------------------------------------------------------- code of others


def test_no_call_lets_a_file_run_code() -> None:
    """ruff bans what reads pickles by its name; here are the arguments that would."""
    wrong = {"weights_only": False, "allow_pickle": True, "trust_remote_code": True, "shell": True}
    for path in (PROJECT / "dwt_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                assert (node.arg, node.value.value) not in wrong.items(), (path, node.arg)


# ------------------------------------------------------------------- names that leave their folder


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_manifest_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    atomic.write_json(folder / atomic.MANIFEST, {name: atomic.file_sum(tmp_path / "secret")})
    with pytest.raises(atomic.Damaged, match="outside of it"):
        atomic.verify(folder)


@pytest.mark.parametrize("place", ["../other/model.safetensors", "/model.safetensors"])
def test_an_index_names_no_weights_elsewhere(tmp_path: Path, place: str) -> None:
    model = outlined(tiny_architecture(), "cpu")
    model.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    found = place.replace("/model", f"{tmp_path}/other/model") if place[0] == "/" else place
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), found)}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    teacher = CheckpointTeacher(path=str(tmp_path / "model"))
    for opened in (open_config, open_model):
        with pytest.raises(UserError, match="which is outside of its folder"):
            opened("teacher.path", teacher, Head.masked)


@pytest.mark.parametrize("place", ["/etc", "../../..", "../../a/../../b", "../../../home"])
def test_a_study_names_no_folder_elsewhere(tmp_path: Path, place: str) -> None:
    folder = miniature.write(tmp_path, seeds=(0,))
    content = json.loads((folder / "study.json").read_text())
    content["jobs"][0]["folder"] = place
    (folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no run beside the folder of studies"):
        read_study(folder)


# ------------------------------------------------------------------------- what is shown to others


def test_a_report_shows_every_string_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda results, folder: {})
    secret = b"\x89PNG of somebody else"
    (tmp_path / "secret.png").write_bytes(secret)
    folder = miniature.write(tmp_path, seeds=(0, 1), claims=[])
    study = read_study(folder)
    arms = {arm: f"{words} {EVIL}" for arm, words in study.arms.items()} | {EVIL: EVIL}
    jobs = tuple(replace(job, words=(*job.words, EVIL)) for job in study.jobs)
    failed = replace(jobs[0], seed=9, folder=None, state="failed", error=EVIL)
    write_study(
        folder, replace(study, question=EVIL, command=EVIL, arms=arms, jobs=(*jobs, failed))
    )
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "<img" not in page and "<a " not in page
    assert base64.b64encode(secret).decode() not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; ![x](../../secret.png)") > 4
    assert "failed: a\\|b" in (folder / "report.md").read_text()
    columns = 0
    for line in (folder / "report.md").read_text().splitlines():
        if line.startswith("| --- "):
            columns = line.count("|")
        elif not line.startswith("|"):
            columns = 0
        assert columns in (0, len(re.findall(r"(?<!\\)\|", line))), line


def test_a_card_and_a_chain_show_every_string_as_it_is(tmp_path: Path) -> None:
    summary = SUMMARY | {"name": EVIL, "choices": {"teacher": EVIL}, "teacher": None}
    config = {"data": {"path": "a\n```\n<script>alert(1)</script>\n```"}}
    card = model_card(summary, config, MaskedLM())
    link = Link(EVIL, 3, (EVIL,), (EVIL, 2), None, EVIL)
    write_chain(tmp_path, ChainRecord(EVIL, f"dwt-train {EVIL}", (link,)))
    for text in (card, (tmp_path / "chain.md").read_text()):
        outside = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)<script", outside)
        assert not re.search(r"\](?=\()(?!\(https://huggingface)", outside)


def test_the_home_folder_is_on_no_record() -> None:
    home = str(Path.home())
    said = {"a": [f"data.path={home}/text", f"'{home}'", f"{home}2/x", f"/x{home}/y", 3, None]}
    there = {
        "a": [f"data.path={INSTEAD}/text", f"'{INSTEAD}'", f"{home}2/x", f"/x{home}/y", 3, None]
    }
    assert without_home(said) == there
    assert with_home(f"{INSTEAD}/cache") == f"{home}/cache"
    assert for_a_shell(Path.home() / "a b" / "c") == "~/'a b/c'"
    assert for_a_shell(Path("/a b")) == "'/a b'"
    assert last_part(f"{home}/model") == "home" and last_part(f"{home}/mine/model") == "mine"


# what the run's own processes read and print, on this machine alone
_LOGS = r"runs/(studies/[^/]+/logs/|[^/]+/wandb/(cache/|[^/]*/logs/|debug|latest))"


@pytest.mark.slow
@pytest.mark.parametrize("more", [("tracker=none", "-m", "seed=0"), ("tracker=wandb",)])
def test_what_is_written_tells_no_name_and_keeps_the_umask(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    home = tmp_path / "somebody"
    write_text(home / "text")
    who = {"HOME": str(home), "USER": "somebody", "LOGNAME": "somebody"}
    words = [word for word in options(home) if not word.startswith("tracker=")]
    done = dwt_train(*words, "train.checkpoint_every=3", *more, cwd=home, **who)
    assert done.returncode == 0, done.stderr
    (folder,) = (home / "runs").glob("small-*")
    assert INSTEAD in (folder / "config.yaml").read_text()
    written = [path for top in ("runs", "cache") for path in (home / top).rglob("*")]
    assert len(written) > 50
    for path in written:
        where = path.relative_to(home).as_posix()
        assert "somebody" not in where
        if path.is_file() and not re.match(_LOGS, where):
            assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o666, where
            assert b"somebody" not in path.read_bytes(), where


# ------------------------------------------------------------------------------- what is installed


def test_each_package_is_justified() -> None:
    asked = (PROJECT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("\n]")[0]
    rows = (PROJECT / "CONTRIBUTING.md").read_text().split("\n| package | for |\n|---|---|\n")[1]
    cells = " ".join(row.split("|")[1] for row in rows.split("\n\n")[0].splitlines())
    assert sorted(re.findall(r"[\w-]+", cells)) == sorted(re.findall(r'"([\w-]+)', asked))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", ["pip check", "pip_audit --no-deps -r constraints.txt"])
def test_what_is_installed_fits_and_is_known_to_be_safe(command: str) -> None:
    """pip_audit asks a database on the network; where there is neither, nothing is known."""
    tool, *words = command.split()
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    ask = [sys.executable, "-m", tool, *words]
    done = subprocess.run(ask, cwd=PROJECT, capture_output=True, text=True, check=False)
    if tool == "pip_audit" and "ConnectionError" in done.stderr:
        pytest.skip("no database can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
