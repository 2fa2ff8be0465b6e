"""The real command, end to end."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForMaskedLM, pipeline

from dwt_cli.base import atomic
from dwt_cli.config import files
from tests.miniature import dwt_train, options, write_text
from tests.record import folder_of

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_text(folder / "text")
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    return _finished(place, "teacher=none")


@pytest.fixture(scope="module")
def distilled(place: Path, alone: Path) -> Path:
    return _finished(place, "teacher=small", "student=large", "alpha=decay")


def _finished(place: Path, *choices: str) -> Path:
    done = dwt_train(*options(place), *choices, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder_of(done.stdout)


def test_a_run_leaves_a_whole_record(distilled: Path) -> None:
    assert "status.json" not in (distilled / atomic.SUMS).read_text()  # a late stop changes it
    summary = json.loads((distilled / "summary.json").read_text())
    lines = [json.loads(line) for line in (distilled / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "train/hard_loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    assert {"train/soft_loss", "train/teacher_loss", "train/alpha_hard"} <= train[0].keys()
    assert [line["train/alpha_soft"] for line in train] == pytest.approx([4, 3.5, 3, 2.5, 2, 1.5])
    assert [line["step"] for line in lines if "heldout/loss" in line] == [0, 3, 6]
    assert summary["teacher"]["parameters"] < summary["student"]["parameters"]
    assert summary["stand_alone"]["heldout"]["loss"] > 0
    assert summary["cost"]["teacher_forward_flops"] > 0
    assert json.loads((distilled / "status.json").read_text())["state"] == "finished"
    assert yaml.safe_load((distilled / "config.yaml").read_text())["student"]["width"] == 16
    assert (distilled / "curves.png").stat().st_size > 10_000
    assert distilled.name.startswith("small-files-h_f_0.2-text-")


def test_the_model_opens_with_transformers(distilled: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(distilled / "model")
    assert model.config.num_hidden_layers == 6
    answers = pipeline("fill-mask", model=str(distilled / "model"))("bark [MASK] dum.")
    assert len(answers) == 5
    assert "small" in (distilled / "model" / "README.md").read_text()


def test_the_bare_command_is_the_spelled_out_one(place: Path, distilled: Path) -> None:
    shown = _loads_no_torch("main.main", *options(place))
    assert "this run is finished" in shown
    assert f"record: {distilled}" in shown
    weak = dwt_train(*options(place), "teacher=weak", cwd=place)
    assert f"record: {distilled}" in weak.stdout


@pytest.mark.slow
def test_a_name_is_not_what_a_run_is_found_by(place: Path) -> None:
    words = ("teacher=none", "train.max_steps=1")
    named = _finished(place, *words, "run.name=mine")
    assert re.fullmatch("mine-[0-9a-f]{16}", named.name)
    assert _finished(place, *words) == named


@pytest.mark.slow
def test_fresh_keeps_the_old_record(place: Path, alone: Path) -> None:
    before = (alone / "metrics.jsonl").read_text()
    assert _finished(place, "teacher=none", "run.fresh=true") == alone
    kept = alone.with_name(alone.name + ".1")
    assert (kept / "metrics.jsonl").read_text() == before
    losses = [
        [json.loads(line).get("train/loss") for line in text.splitlines()]
        for text in (before, (alone / "metrics.jsonl").read_text())
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_any_group_can_be_changed(place: Path, distilled: Path) -> None:
    other = _finished(place, "teacher=very_weak", "alpha=strong", "remap=paper", "seed=3")
    summary = json.loads((other / "summary.json").read_text())
    layers = json.loads((other / "remap.json").read_text())["layers"]
    assert list(layers.values()) == [{"0": 1.0}] + [{"1": 1.0}] * 5
    losses = summary["student"]["remap"]["losses"]
    assert losses["teacher"] == summary["teacher"]["heldout"]["loss"]
    assert losses["remapped"] == summary["student"]["heldout_at_start"]["loss"]
    assert losses["random"] != losses["remapped"]
    assert (other / "remap.png").is_file()
    assert summary["stand_alone"] is None  # of seed 3 there is none


def test_a_checkpoint_teaches(place: Path, alone: Path) -> None:
    run = _finished(place, "teacher=checkpoint", f"teacher.path={alone}/model")
    summary = json.loads((run / "summary.json").read_text())
    alone_summary = json.loads((alone / "summary.json").read_text())
    assert summary["teacher"]["heldout"]["loss"] == pytest.approx(
        alone_summary["student"]["heldout"]["loss"], abs=1e-6
    )


def test_weights_and_biases_offline(place: Path) -> None:
    words = [*options(place), "teacher=none", "seed=5", "tracker=wandb"]
    done = dwt_train(*words, cwd=place, WANDB_API_KEY="0" * 40)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "W&B has not been sent everything: wandb sync" in done.stdout
    again = dwt_train(*words, cwd=place)
    assert "this run is finished" in again.stdout
    assert "W&B" not in again.stdout, "without a key nothing is to be sent"


def test_who_has_read_enough_of_the_help_may_leave() -> None:
    command = [sys.executable, "-m", "dwt_cli.cli", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None and asked.stderr is not None
        asked.stdout.close()
        assert asked.stderr.read() == b""
    assert asked.returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_questions_are_answered_without_a_trace(tmp_path: Path, arguments: list[str]) -> None:
    answer = dwt_train(*arguments, cwd=tmp_path)
    assert answer.returncode == 0
    assert "teacher" in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_tab_completes_words_in_bash(tmp_path: Path) -> None:
    script = dwt_train("--shell-completion", "install=bash", cwd=tmp_path)
    assert script.returncode == 0, script.stderr
    bash = ["bash", "-c", f"{script.stdout}\ncomplete -p dwt-train"]
    installed = subprocess.run(bash, capture_output=True, text=True, check=True)
    assert "dwt-train" in installed.stdout
    typed = {"COMP_LINE": "dwt-train teacher=very", "COMP_POINT": "22"}
    asked = dwt_train("--shell-completion", "query=bash", cwd=tmp_path, **typed)
    assert asked.stdout.split() == ["teacher=very_weak"]


def test_help_tells_every_choice(tmp_path: Path) -> None:
    text = dwt_train("--help", cwd=tmp_path).stdout
    assert "  large_modernbert ModernBERT-large" in text
    for group, choices in files.groups().items():
        for choice in choices:
            assert files.about(group, choice), f"conf/{group}/{choice}.yaml has no comment"
            assert choice in text


@pytest.mark.parametrize(
    "command",
    [
        "main.main --help",
        "main.evaluate_main --help",
        "main.advise_main --help",
        "main.main --cfg job",
        "report.main --help",
        "runs.main --help",
        "cache.main --help",
        "trace.main --help",
    ],
)
def test_what_needs_no_torch_does_not_load_it(command: str) -> None:
    _loads_no_torch(*command.split())


def _loads_no_torch(function: str, *words: str) -> str:
    """Call a function of `dwt_cli.cli` in a fresh process; return what it prints."""
    code = (
        "import sys\n"
        f"from dwt_cli.cli import {function.partition('.')[0]}\n"
        f"sys.argv = ['dwt', *{words}]\n"
        "try:\n"
        f"    {function}()\n"
        "finally:\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_answers_from_another_folder(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("dwt_cli", "conf", "sweeps"):
        shutil.copytree(PROJECT / name, project / name)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(PROJECT / name, project)
    build = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path),
            str(project),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, target, *tmp_path.glob("*.whl")], check=True)
    for words in (["--cfg", "job"], ["-cn", "teacher_quality", "arm=weak", "--cfg", "job"]):
        code = (
            f"import sys; sys.path.insert(0, {str(target)!r});"
            f"sys.argv = ['dwt-train', *{words}];"
            "from dwt_cli.cli import main; print(main.__file__); main.main()"
        )
        answer = subprocess.run(
            [sys.executable, "-I", "-c", code],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert str(target) in answer.stdout
        assert "num_layers: 6" in answer.stdout
