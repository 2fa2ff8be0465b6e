"""``dwt-eval``, and ``eval=...`` of a run, from the command line to the scores."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from dwt_cli.base import atomic
from dwt_cli.cli import main
from dwt_cli.recipe.finetuning import TaskTunings
from tests.data.miniature_glue import write_glue
from tests.miniature import options, write_text

Answer = tuple[object, str, str]
Ask = Callable[..., Answer]
ABOUT = [
    "eval.glue.tasks=[WNLI]",
    "eval.glue.protocol=quick",
    "eval.glue.num_seeds=1",
    "eval.num_blocks=8",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_text(folder / "text")
    write_glue(folder / "glue")
    return folder


@pytest.fixture
def ask(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """A front door in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def command(door: Callable[[], None], *arguments: str) -> Answer:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["dwt", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            door()
        except SystemExit as leave:
            code = leave.code
        return (code, *capsys.readouterr())

    return command


def scores(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "scores.json").read_text())["scores"]
    return found


def of_eval(place: Path) -> list[str]:
    """The words of `options` that an evaluation takes."""
    taken = ("data", "run", "launch", "tracker", "scale.block_length")
    return [word for word in options(place) if word.startswith(taken)]


@pytest.mark.slow
def test_a_run_is_measured_at_moments_and_its_model_not_twice(
    ask: Ask, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*options(place), "teacher=none", "eval=all", f"eval.glue.path={place}/glue", *ABOUT]
    code, out, err = ask(main.main, *words, "eval.at=[0,0.5,1]")
    assert code == 0, err
    (run,) = (place / "runs").iterdir()
    found = scores(run)
    assert {row["moment"] for row in found} == {"at 0%", "at 50%", "score"}
    losses = [row["value"] for row in found if row["metric"] == "loss"]
    summary = json.loads((run / "summary.json").read_text())["student"]
    assert losses[0] == pytest.approx(summary["heldout_at_start"]["loss"], abs=1e-5)
    assert losses[2] == pytest.approx(summary["heldout"]["loss"], abs=1e-5)
    assert losses[0] > losses[1] > losses[2]

    def tuned(*arguments: object) -> None:
        raise AssertionError("it is known already")

    monkeypatch.setattr(TaskTunings, "carry_out", tuned)
    code, out, err = ask(
        main.evaluate_main, *of_eval(place), f"model={run}/model", "eval=all",
        f"eval.glue.path={place}/glue", *ABOUT,
    )  # fmt: skip
    assert code == 0 and "trained on blocks" not in out, err
    (theirs,) = (place / "runs").glob("eval-*")
    last = [row for row in found if row["moment"] == "score"]
    assert [row["value"] for row in scores(theirs)] == pytest.approx([row["value"] for row in last])
    assert "WNLI" in out
    (text,) = (path for path in (place / "cache" / "corpus").iterdir() if path.is_dir())
    assert text.name == json.loads((run / "summary.json").read_text())["corpus"]["fingerprint"]

    # the run itself is found again, whatever is measured; a moment that was not kept is told
    code, out, err = ask(main.main, *words, "eval.at=[0.25,1]")
    assert code == 2
    assert "this run is finished" in out
    assert "eval.at=0.25" in err and "run.fresh=true" in err

    headless = Path(shutil.copytree(run / "model", place / "headless"))
    (headless / atomic.SUMS).unlink()
    ModernBertForSequenceClassification(
        ModernBertConfig.from_pretrained(run / "model")
    ).save_pretrained(headless)
    settings = headless / "tokenizer_config.json"
    shorter = json.loads(settings.read_text()) | {"model_max_length": 8}
    settings.write_text(json.dumps(shorter))
    code, out, err = ask(main.evaluate_main, *of_eval(place), f"model={headless}")
    assert code == 2
    assert "no language-model head" in err
    assert f"warning: model={headless} was trained on blocks of 8 tokens" in out


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no model": ([], ["model has no value", "model=..."]),
    "no folder": (["model=./nowhere"], ["model=./nowhere", "no such folder"]),
    "an empty folder": (["model=text"], ["model=text", "config.json"]),
    "a group of a training": (["model=x", "teacher=small"], ["teacher", "there are: model"]),
    "a typo": (["modle=x"], ["modle", "did you mean model?"]),
    "a typo inside": (
        ["model=x", "eval=glue", "eval.glue.protokol=quick"],
        ["eval.glue.protokol", "did you mean eval.glue.protocol?"],
    ),
    "no such choice": (["model=x", "eval=gleu"], ["eval=gleu", "did you mean glue?"]),
    "no such measure": (["model=x", "eval.measures=[gleu]"], ["gleu", "did you mean glue?"]),
    "no such task": (["model=x", "eval=glue", "eval.glue.tasks=[RTA]"], ["RTA", "mean RTE?"]),
    "no such protocol": (["model=x", "eval.glue.protocol=fast"], ["fast", "sane, bert, quick"]),
    "no GLUE": (["model=x", "eval=glue", "eval.glue.path=no"], ["eval.glue.path=no", "looked in"]),
    "no value": (["model"], ["model", "as in model=VALUE"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(ask: Ask, place: Path, mistake: str) -> None:
    words, parts = MISTAKES[mistake]
    before = set(place.iterdir())
    code, _, err = ask(main.evaluate_main, *words)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("dwt-eval: "), err
    for part in parts:
        assert part in lines[0], lines[0]
    assert "dwt-train" not in lines[0]
    assert set(place.iterdir()) == before


def test_help_is_about_evaluations(ask: Ask) -> None:
    code, out, _ = ask(main.evaluate_main, "--help")
    assert code == 0
    assert "dwt-eval model=" in out and "eval/" in out and "teacher/" not in out
