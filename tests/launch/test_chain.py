"""Chains through the real command: each stage an ordinary run, and only what is missing is done."""

import json
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dwt_cli.cli import main
from tests.miniature import dwt_train, options, write_text
from tests.processes import Started

SLOW = pytest.mark.slow
Refused = Callable[[list[str], list[str]], None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a finished run of one layer."""
    folder = tmp_path_factory.mktemp("chain")
    write_text(folder / "text", num_documents=30)
    words = ["teacher=none", "student.num_layers=1", *options(folder)]
    done = dwt_train(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("runs/none-*")
    run.rename(folder / "small")
    return folder


def command(place: Path, *words: str, config: tuple[str, ...] = ("-cn", "grades")) -> list[str]:
    own = ("scale.vocab_size", "scale.teacher_steps")  # the text is in the teacher's tokens
    sizes = [word for word in options(place) if not word.startswith(own)]
    return [*config, f"chain.teacher={place}/small", *sizes, *words]


def records(place: Path) -> list[dict[str, Any]]:
    """What the chains of a folder have on record, the one that was written last at the end."""
    files = sorted(place.glob("runs/chains/*/chain.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text()) for file in files]


def summaries(place: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in place.glob("runs/*/summary.json")}


@pytest.fixture(scope="module")
def first(place: Path) -> Any:
    return dwt_train(*command(place, "chain.layers=[2,3]"), cwd=place, timeout=250)


def test_each_grade_is_a_run_that_learns_from_the_one_before(place: Path, first: Any) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    (record,) = records(place)
    folder = place / "runs/chains" / record["name"]
    one, two = [folder / link["folder"] for link in record["links"]]
    said = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    assert [each["choices"]["remap"] for each in said] == ["stack", "stack"]
    words = [link["words"] for link in record["links"]]
    assert f"teacher.path={place}/small" in words[0] and "student.num_layers=2" in words[0]
    assert f"teacher.path={place}/runs/{one.name}" in words[1]
    assert said[1]["teacher"]["heldout"]["loss"] == pytest.approx(
        said[0]["student"]["heldout"]["loss"]
    )

    parts = ("student_flops", "teacher_forward_flops", "remap_flops", "calibration_flops")
    flops = [sum(each["cost"][part] for part in parts) for each in said]
    table = pd.read_csv(folder / "chain.csv")
    assert list(table.stage[1:]) == ["grade1", "grade2"] and list(table.layers) == [1, 2, 3]
    assert list(table.flops) == pytest.approx([said[0]["teacher"]["flops"], *flops])
    assert table.flops_charged.iloc[-1] == pytest.approx(sum(flops))
    # what the last model's own record charges, which knows its teachers' costs in one number
    assert said[1]["cost"]["teacher_pretraining_flops"] == pytest.approx(table.flops[:2].sum())
    assert list(table.heldout_after[1:]) == [each["student"]["heldout"]["loss"] for each in said]
    starts = [each["student"]["remap"]["losses"]["remapped"] for each in said]
    assert list(table.heldout_before[1:]) == starts
    assert record["table"][1]["run"] == one.name.rpartition("-")[0]
    assert f"{sum(flops):.3g}" in (folder / "chain.md").read_text()
    (charged,) = [line for line in first.stdout.splitlines() if "charged to the last" in line]
    assert f"{sum(flops):.3g}" in charged
    assert f"teacher's pre-training: {said[0]['teacher']['flops']:.3g} FLOPs" in first.stdout
    assert shlex.join(["dwt-train", *words[1]]) in " ".join(first.stdout.split())


@SLOW
def test_a_plan_has_every_stage_before_their_teachers_are_there(
    place: Path, first: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = summaries(place)
    words = command(place, "chain.layers=[2,3,4]", "run.plan=true", "run.peak_tflops=1")
    monkeypatch.setattr("sys.argv", ["dwt-train", *words])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "│" in line]
    (stage,) = [line for line in lines if "grade3" in line]  # the others are finished
    table = records(place)[0]["table"]
    grew = [(table[n]["flops"] - table[n - 1]["flops"]) for n in (2,)]
    assert float(stage[9]) == pytest.approx(table[2]["flops"] + grew[0], rel=0.02)
    assert summaries(place) == before and len(records(place)) == 1


MISTAKES = [
    (["chain.layer=[2]"], ["chain.layer", "did you mean chain.layers?"]),
    (["-m", "chain.layers=[2]"], ["-m: a chain is one run after the other"]),
    (["chain.layers=[2]", "seed=0,1"], ["seed=0,1: a chain has one value of each setting"]),
    (["chain.layers=[1]"], ["chain.layers=[1] after a teacher of 1 layers", "chain.same=true"]),
    (["chain.layers=[2]", "run.export=true"], ["run.export=true", "of a stage"]),
    (["chain.layers=[2]", "scale.width=32"], ["student.width=32", "remap.width"]),
]


@pytest.fixture
def refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Check that a command is answered by one line with these parts, and begins nothing."""

    def check(typed: list[str], parts: list[str]) -> None:
        before = sorted(place.glob("runs/*"))
        monkeypatch.chdir(place)
        monkeypatch.setattr("sys.argv", ["dwt-train", *typed, "jobs.start=fresh"])
        with pytest.raises(SystemExit) as left:
            main.main()
        assert left.value.code == 2
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("dwt-train:")]
        assert len(lines) == 1 and all(part in lines[0] for part in parts), lines
        assert sorted(place.glob("runs/*")) == before

    return check


@pytest.mark.parametrize(
    ("words", "parts"),
    [*MISTAKES[:4], *(pytest.param(*each, marks=SLOW) for each in MISTAKES[4:])],
)
def test_a_mistake_is_one_line_and_begins_nothing(
    words: list[str], parts: list[str], place: Path, refused: Refused
) -> None:
    refused(command(place, *words), parts)


@SLOW
def test_only_what_follows_a_change_is_done_again(place: Path, first: Any) -> None:
    before = summaries(place)
    again = dwt_train(*command(place, "chain.layers=[2,3]"), cwd=place, timeout=250)
    assert again.returncode == 0 and "2 runs, 2 of them finished before" in again.stdout
    assert summaries(place) == before
    words = command(place, "chain.layers=[2,3,4]", "chain.mask=[0.15,0.3,0.4]")
    other = dwt_train(*words, cwd=place, timeout=250)
    assert other.returncode == 0, other.stdout + other.stderr
    after = summaries(place)
    assert before.items() <= after.items() and len(after) == len(before) + 2
    ratios = [f"task.mask_ratio={ratio}" for ratio in (0.15, 0.3, 0.4)]
    assert [
        word in link["words"]
        for word, link in zip(ratios, records(place)[-1]["links"], strict=True)
    ] == [True] * 3
    by_hand = dwt_train(*records(place)[-1]["links"][1]["words"], cwd=place)
    assert "this run is finished" in by_hand.stdout and summaries(place) == after


@SLOW
@pytest.mark.parametrize("when", ["inside", "between"])
def test_a_chain_that_was_killed_goes_on(place: Path, tmp_path: Path, when: str) -> None:
    """In mid-training, or when its first stage has just ended; the result is the same bits."""
    shutil.copytree(place / "text", tmp_path / "text")
    shutil.copytree(place / "small", tmp_path / "small")
    long = (
        "chain.layers=[2,3]",
        "scale.max_steps=40",
        "scale.checkpoint_every=10",
        f"run.root={tmp_path}/runs",
    )
    words = command(place, *long)
    started = Started(words, tmp_path)
    seen = "checkpoints/step-000020" if when == "inside" else "summary.json"
    try:
        started.wait_until(
            lambda: (
                any(tmp_path.glob("runs/*/checkpoints/*"))
                if when == "inside"
                else any(tmp_path.glob(f"runs/*/{seen}"))
            )
        )
        started.send(signal.SIGKILL)
        assert started.ended() == -signal.SIGKILL
    finally:
        Started.end_all()
    again = dwt_train(*words, cwd=tmp_path, timeout=250)
    assert again.returncode == 0, again.stdout + again.stderr
    whole = dwt_train(*words[:-1], f"run.root={tmp_path}/whole", cwd=tmp_path, timeout=250)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    for stage in (2, 3):
        one, other = (
            next(
                file
                for file in root.glob("*/model/config.json")
                if json.loads(file.read_text())["num_hidden_layers"] == stage
            )
            .with_name("model.safetensors")
            .read_bytes()
            for root in (tmp_path / "runs", tmp_path / "whole")
        )
        assert one == other


@SLOW
def test_a_stage_that_fails_leaves_the_others(place: Path, first: Any) -> None:
    folder = place / "mine"
    folder.mkdir()
    (folder / "two.yaml").write_text(
        "defaults: [chain, _self_]\n"
        "chain:\n  stages:\n"
        "    good: teacher=checkpoint teacher.path=@teacher student.num_layers=2 alpha=step\n"
        "    bad: student=checkpoint student.path=@good teacher=none optim.lr=1e9 optim=adamw\n"
    )
    words = command(
        place, "train.non_finite=stop", config=("--config-dir", str(folder), "-cn", "two")
    )
    done = dwt_train(*words, cwd=place, timeout=250)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "failed: bad: " in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert "the stages before it stay; to go on: dwt-train --config-dir" in done.stdout
    good, bad = records(place)[-1]["table"][1:]
    assert (good["state"], bad["state"]) == ("finished", "failed")


@SLOW
def test_decoders_have_grades_too(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "text", tmp_path / "text")
    words = [*options(tmp_path), "task=clm", "scale.vocab_size=300"]
    assert dwt_train("teacher=none", "student.num_layers=1", *words, cwd=tmp_path).returncode == 0
    (run,) = tmp_path.glob("runs/none-*")
    run.rename(tmp_path / "small")
    grades = command(tmp_path, "chain.layers=[2,4]", "task=clm", "remap=zero_init")
    done = dwt_train(*grades, "jobs=joblib", cwd=tmp_path, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    last = records(tmp_path)[0]["table"][-1]
    assert last["heldout_before"] == pytest.approx(
        records(tmp_path)[0]["table"][-2]["heldout_after"], abs=1e-4
    )
    assert "warning: jobs.num_parallel has no effect" in done.stderr


@SLOW
def test_two_ranks_grow_as_one_does(place: Path, first: Any, tmp_path: Path) -> None:
    ranks = ["launch=torchrun", "launch.gpus=2", "launch.device=cpu", f"run.root={tmp_path}"]
    ended = dwt_train(*command(place, "chain.layers=[2,3]", *ranks), cwd=place, timeout=250)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (ours,) = tmp_path.glob("chains/*/chain.csv")
    alone = pd.read_csv(next(place.glob("runs/chains/*/chain.csv")))
    found = pd.read_csv(ours)
    assert list(found.heldout_after) == pytest.approx(list(alone.heldout_after), rel=1e-3)
