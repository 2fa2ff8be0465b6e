"""What of a study can be used, and what is said of the rest."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.study.compute import Account
from dwt_cli.study.record import Job, read_study, write_study
from dwt_cli.study.results import read_results
from tests.study import miniature
from tests.study.miniature import CONFIG


def place(folder: Path, arm: str, length: int, seed: int) -> Path:
    return folder.parent.parent / miniature.identity(arm, length, seed)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def record_of(study_folder: Path, arm: str, length: int, seed: int, **changes: Any) -> None:
    """Change what study.json says of one job."""
    study = read_study(study_folder)
    at = (arm, length, seed)
    jobs = [
        replace(job, **changes) if (job.arm, job.length, job.seed) == at else job
        for job in study.jobs
    ]
    write_study(study_folder, replace(study, jobs=tuple(jobs)))


def test_a_whole_study(tmp_path: Path) -> None:
    results = read_results(miniature.write(tmp_path))
    assert (len(results.runs), len(results.left_out)) == (30, 0)
    assert (results.baseline, results.compared) == ("alone", ["weak", "poor"])
    run = results.of("weak", 200).loc[3]
    assert run.heldout_loss == pytest.approx(
        miniature.loss_alone(200, 3) - 0.1 + miniature.noise("weak", 3)
    )
    assert run.teacher_heldout_loss == pytest.approx(miniature.loss_alone(200, 3) + 0.3)
    assert [run[account.column] for account in Account] == [200e9, 250e9, 350e9]
    assert run.curve[0] == (0, 9.0) and len(run.curve) == 6
    assert run.weights[0] == (0.005, 1.0, 1.0) and run.weights[-1] == (1.0, 1.0, 1.0)
    assert results.of("alone", 100).weights[0][-1] == (1.0, 1.0, 0.0)
    assert math.isnan(results.of("alone", 100).teacher_heldout_loss[0])
    assert len(results.curves) == 30 * 6
    assert results.curves.share.max() == 1.0


def test_arms_that_share_what_a_teacher_was_asked_pay_for_it_once(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1))
    for arm, heard in (("weak", 50e9), ("poor", 30e9)):
        path = place(folder, arm, 200, 1) / "summary.json"
        summary = json.loads(path.read_text())
        student = summary["student"] | {"signal": {"identity": "one", "flops": heard}}
        cost = summary["cost"] | {"teacher_forward_flops": heard}
        rewrite(path, student=student | {"teacher_forward_flops": heard}, cost=cost)
    results = read_results(folder)
    forwards, wholes = (
        [results.of(arm, 200).loc[1][account.column] for arm in ("weak", "poor")]
        for account in (Account.FORWARD, Account.WHOLE)
    )
    assert forwards == pytest.approx([200e9 + 50e9 * 5 / 8, 200e9 + 30e9 * 5 / 8])
    assert sum(forwards) == pytest.approx(400e9 + 50e9), "once, for all that is heard"
    assert wholes == pytest.approx([forward + 100e9 for forward in forwards])
    assert results.of("weak", 200).loc[0][Account.FORWARD.column] == 250e9, "who shares nothing"


def test_a_teacher_that_is_no_model_has_no_loss(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,))
    virtual = {"parameters": 0, "heldout": {"loss": 0.1}}
    rewrite(place(folder, "weak", 100, 0) / "summary.json", teacher=virtual)
    assert math.isnan(read_results(folder).of("weak", 100).teacher_heldout_loss[0])


Damage = Callable[[Path, Path], object]  # of the study's folder and of weak, 100, seed 1


def diverged(folder: Path, run: Path) -> None:
    summary = miniature.summary("weak", 100, 1)
    summary["student"]["heldout"]["loss"] = float("nan")
    (run / "summary.json").write_text(json.dumps(summary))


def failed(folder: Path, run: Path) -> None:
    (run / "summary.json").unlink()
    record_of(folder, "weak", 100, 1, state="failed", error="out of memory: lower it")


def never_run(folder: Path, run: Path) -> None:
    record_of(folder, "weak", 100, 1, state="missing", folder=None, identity=None)


def running(folder: Path, run: Path) -> None:
    (run / "summary.json").unlink()
    record_of(folder, "weak", 100, 1, state="running")


def torn(folder: Path, run: Path) -> None:
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text[: len(text) // 2])


def short(folder: Path, run: Path) -> None:
    rewrite(run / "summary.json", student={"parameters": 1})


def swapped(folder: Path, run: Path) -> None:
    rewrite(run / "summary.json", identity="0123456789abcdef")


def other_text(folder: Path, run: Path) -> None:
    rewrite(run / "summary.json", corpus={"fingerprint": "decaf"})


def other_masks(folder: Path, run: Path) -> None:
    (run / "config.yaml").write_text("task: {mask_ratio: 0.3, keep_ratio: 0.1, random_ratio: 0}\n")


def other_versions(folder: Path, run: Path) -> None:
    rewrite(run / "environment.json", versions={"torch": "2.14.0"})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (failed, "failed: out of memory: lower it"),
        (never_run, "has not been run"),
        (running, "is running"),
        (lambda folder, run: shutil.rmtree(run), "its folder is gone"),
        (lambda folder, run: (run / "summary.json").unlink(), "no summary.json: it did not finish"),
        (torn, "its summary.json is half-written"),
        (short, "its summary.json lacks student.heldout"),
        (swapped, "its folder holds another run, 0123456789abcdef"),
        (diverged, "its held-out loss is not finite: it has diverged"),
        (other_text, "other text than most runs: decaf instead of c0ffee"),
        (
            other_masks,
            "other held-out masks than most runs: 0.3 masked, 0.1 of them kept, 0 random instead "
            "of 0.15 masked, 0.1 of them kept, 0.1 random",
        ),
        (other_versions, "other versions than most runs: torch 2.14.0 instead of 2.13.0"),
        (
            lambda folder, run: (run / "environment.json").unlink(),
            "other versions than most runs: Python unknown instead of 3.11.7",
        ),
    ],
)
def test_what_is_left_out(tmp_path: Path, damage: Damage, why: str) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,))
    damage(folder, place(folder, "weak", 100, 1))
    results = read_results(folder)
    (out,) = results.left_out.itertuples()
    assert why in out.why
    assert (out.what, out.arm, out.seed) == ("run", "weak", 1)
    assert len(results.runs) == 5 and list(results.of("weak", 100).index) == [0]


def test_a_text_that_was_found_by_another_name_is_the_same(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,))
    newer = place(folder, "weak", 100, 1)
    rewrite(newer / "summary.json", corpus={"fingerprint": "decaf", "formerly": "c0ffee"})
    (newer / "config.yaml").write_text("task: {mask_ratio: 0.3}\neval: {mask_ratio: 0.15}\n")
    results = read_results(folder)
    assert results.left_out.empty
    assert len(results.runs) == 6


def test_a_finished_run_is_believed_before_the_record(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,))
    record_of(folder, "weak", 100, 0, state="running")
    assert len(read_results(folder).runs) == 6


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: path.write_text(path.read_text()[:-2500]), "ends at step 60"),
    ],
)
def test_a_curve_without_its_end(
    tmp_path: Path, damage: Callable[[Path], object], why: str
) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(100,))
    damage(place(folder, "weak", 100, 0) / "metrics.jsonl")
    results = read_results(folder)
    (out,) = results.left_out.itertuples()
    assert (out.what, out.why) == ("curve", f"its metrics.jsonl {why}")
    assert len(results.runs) == 3, "its end is known all the same"


def test_text_is_said_to_be_that_of_a_task_which_has_its_own(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(100,))
    choices = {"data": "docs", "task": "glue"}
    labelled = {"train_texts": 2490, "train_tokens": 9000}
    for facts, expected in (
        (labelled, "task=glue task.name=RTE, 2,490 labelled texts to train on, corpus c0ffee"),
        ({"train_tokens": 9000}, "data=docs, 9,000 tokens to train on, corpus c0ffee"),
    ):
        run, corpus = place(folder, "alone", 100, 0), {"fingerprint": "c0ffee", **facts}
        said = {**miniature.summary("alone", 100, 0), "choices": choices, "corpus": corpus}
        (run / "summary.json").write_text(json.dumps(said))
        (run / "config.yaml").write_text(CONFIG + "task: {name: RTE}\n")
        assert read_results(folder).of("alone", 100).text_facts[0] == expected


# ------------------------------------------------------------------- the stand-alone's points


def with_more(folder: Path, arm: str, steps: int, config: str = CONFIG, **said: Any) -> None:
    """One more arm of length 200 and seed 0, which has `steps`."""
    run = folder.parent.parent / arm
    summary = {**miniature.summary(arm, 200, 0, steps), "identity": arm, **said}
    miniature.write_run(run, summary)
    (run / "config.yaml").write_text(config)
    study = read_study(folder)
    job = Job(arm, 200, 0, (), arm, f"../../{arm}", "finished")
    arms = {**study.arms, arm: ""}
    write_study(folder, replace(study, arms=arms, jobs=(*study.jobs, job)))


def test_longer_stand_alone_arms_are_points_of_it(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path)
    elsewhere = (
        miniature.STUDENT
        + "train: {batch_size: 8, max_steps: 250, compile: true}\neval: {every: 50}\n"
    )
    with_more(folder, "alone_1.25", 250, elsewhere)
    with_more(folder, "other_batch", 300, CONFIG.replace("batch_size: 8", "batch_size: 16"))
    with_more(folder, "other_precision", 300, CONFIG.replace("8}", "8, precision: bf16}"))
    with_more(folder, "other_evaluation", 300, CONFIG + "eval: {num_blocks: 8}\n")
    with_more(folder, "tuned", 300, CONFIG + "tuning: {rank: 4}\n")
    remapped = {
        **miniature.summary("x", 200, 0, 350)["student"],
        "remap": {"flops": 0, "seconds": 0},
    }
    with_more(folder, "remapped", 350, student=remapped)
    results = read_results(folder)
    assert results.stand_alone == {"alone", "alone_1.25"}
    assert results.compared == [
        *("weak", "poor", "other_batch", "other_precision", "other_evaluation", "tuned", "remapped")
    ]
    points = results.points(results.stand_alone, 0)
    assert [flops for flops, _ in points] == [100e9, 200e9, 250e9]
    assert [loss for _, loss in points] == pytest.approx([5.9, 5.8, 5.75])
    assert len(results.points(results.stand_alone, 1)) == 2
    assert results.points({"weak"}, 0, Account.WHOLE) == [
        (175e9, results.of("weak", 100).heldout_loss[0]),
        (350e9, results.of("weak", 200).heldout_loss[0]),
    ]


def test_without_a_baseline_nothing_stands_alone(tmp_path: Path) -> None:
    results = read_results(miniature.write(tmp_path, baseline=None))
    assert (results.baseline, results.stand_alone) == (None, set())
    folder = miniature.write(tmp_path / "unfinished", seeds=(0,))
    for length in (100, 200):
        shutil.rmtree(place(folder, "alone", length, 0))
    assert read_results(folder).baseline is None
