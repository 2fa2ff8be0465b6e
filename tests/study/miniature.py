"""A made-up study on disk: runs whose losses and FLOPs follow from a formula."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dwt_cli.study.record import Claim, Expect, Job, StudyRecord, write_study
from dwt_cli.track.summary import Facts, Summary

ARMS = {"alone": "teacher=none", "weak": "teacher=small", "poor": "teacher=extremely_weak"}
EFFECT = {"alone": 0.0, "weak": -0.1, "poor": 0.2}  # nats, at every length
TEACHER = {"weak": 0.3, "poor": 0.9}  # its loss minus the stand-alone's
STEP, FORWARD, TOKENS = 1e9, 0.25e9, 64  # FLOPs and tokens per step
STUDENT = "student: {width: 2, vocab_size: 4}\n"
CONFIG = STUDENT + "data: {block_length: 64}\ntrain: {batch_size: 8}\n"
BEGAN = "2026-11-01T00:00:00Z"
CLAIMS = [
    Claim("a weak teacher helps", "weak", "alone", Expect.lower),
    Claim("a poor teacher helps", "poor", "alone", Expect.lower, length=200),
]


def loss_alone(steps: int, seed: int) -> float:
    """A tenth of a nat less for each hundred steps, and a seed's luck, which all arms share."""
    return 6.0 - steps / 1000 + 0.05 * seed


def noise(arm: str, seed: int) -> float:
    """What pairing does not take away."""
    return 0.004 * ((seed * 7 + len(arm) * 3) % 5 - 2)


def summary(arm: str, length: int, seed: int, steps: int | None = None) -> dict[str, Any]:
    """As a run writes it. steps: other than the length."""
    steps = steps or length
    taught = arm in TEACHER
    effect = EFFECT.get(arm, 0.0) + (noise(arm, seed) if taught else 0.0)
    alone = loss_alone(steps, seed)
    teacher = Facts(
        parameters=10,
        heldout={"loss": alone + TEACHER.get(arm, 0.0)},
        flops=0.5 * STEP * length,
        steps=length,
        seconds=4.0 + seed,
    )
    student = Facts(
        parameters=20,
        heldout={"loss": alone + effect},
        flops=STEP * steps,
        steps=steps,
        tokens=TOKENS * steps,
        epochs=steps / 150,
        seconds=10.0,
        teacher_forward_flops=FORWARD * steps if taught else 0.0,
        num_taught=steps if taught else 0,
    )
    return Summary(
        name=arm,
        identity=identity(arm, length, seed),
        choices={},
        seed=seed,
        seconds=12.0,
        peak_memory_gb=0.5,
        corpus={"fingerprint": "c0ffee"},
        student=student,
        teacher=teacher if taught else None,
    ).to_json()


def identity(arm: str, length: int, seed: int) -> str:
    return f"{arm}-{length}-{seed}".ljust(16, "0")


def write_run(folder: Path, said: dict[str, Any]) -> None:
    """A run directory: five evaluations on a line to its end, the weights of 1:1."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(said))
    steps, end = said["student"]["steps"], said["student"]["heldout"]["loss"]
    lines: list[dict[str, float]] = [{"step": 0, "heldout/loss": 9.0}]
    for step in range(1, steps + 1):
        line = {"step": step, "train/progress": step / steps, "train/alpha_hard": 1.0}
        lines.append(line | ({"train/alpha_soft": 1.0} if said["teacher"] else {}))
        if step % (steps // 5) == 0:
            lines.append({"step": step, "heldout/loss": end + 2 * (1 - step / steps)})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    environment: dict[str, Any] = {"device": "cpu", "python": "3.11.7", "began": BEGAN}
    environment["versions"] = {"torch": "2.13.0"}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "config.yaml").write_text(CONFIG)


def write(
    root: Path,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    lengths: tuple[int, ...] = (100, 200),
    arms: dict[str, str] = ARMS,
    **changes: Any,
) -> Path:
    """The study's folder below `root`, with all of its runs beside it."""
    jobs = []
    for seed in seeds:
        for arm, words in arms.items():
            for length in lengths:
                run = root / "runs" / identity(arm, length, seed)
                write_run(run, summary(arm, length, seed))
                jobs.append(
                    Job(
                        arm,
                        length,
                        seed,
                        (words, f"seed={seed}"),
                        identity(arm, length, seed),
                        f"../../{run.name}",
                        "finished",
                    )
                )
    study = StudyRecord(
        question="Does a weak teacher help?",
        arms=arms,
        claims=CLAIMS,
        name="miniature",
        command="dwt-train --config-name miniature",
        jobs=tuple(jobs),
    )
    folder = root / "runs" / "studies" / "miniature"
    folder.mkdir(parents=True)
    write_study(folder, replace(study, **changes))
    return folder
