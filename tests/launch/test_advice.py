"""``dwt-advise`` through the real command: the arms, the ladder, the answer, what comes of it."""

import json
import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from dwt_cli.base import locks
from dwt_cli.study.scored import scores
from tests.miniature import dwt_train, options, write_text

LENGTHS = ("scale.max_steps", "scale.eval_every")
PLAN = ("run.plan=true", "run.peak_tflops=1e-3", "advise.budget=4h")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advice")
    write_text(folder / "text")
    return folder


def asked(place: Path, *words: str) -> CompletedProcess[str]:
    own = [word for word in options(place) if not word.startswith(LENGTHS)]
    return dwt_train(*own, *words, cwd=place, timeout=250, program="dwt-advise")


pytestmark = pytest.mark.slow  # a ladder is 24 runs; what follows from one: tests/study


@pytest.mark.parametrize(
    ("teacher", "rule"),
    [
        ("teacher=narrow", "remap=decorrelated"),
        ("teacher=small", "remap=stack"),
        ("teacher=virtual", None),
    ],
)
def test_a_plan_has_the_arms_that_fit_and_leaves_nothing(
    place: Path, teacher: str, rule: str | None
) -> None:
    done = asked(place, teacher, *PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    arms = "alone, taught, grown, both;" if rule else "alone, taught;"
    assert f"the ladder: {arms}" in said
    assert ("grown and both are left out: remap.depth" in said) == (rule is None)
    share = float(re.findall(r"([\d.]+)% of 4h", said)[0])
    assert 7.5 < share <= 8.6  # 25% * (1 / 5) ** log8(4), to whole steps
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["advise.budget=1e8"], ["advise.budget=1e+08: too small", "set advise.budget="]),
        (["run.plan=true", "run.peak_tflops=null"], ["run.plan=true", "give run.peak_tflops"]),
        (["alpha=off"], ["alpha=off: whether to listen"]),
        (["teacher=none"], ["teacher=none: it is a teacher"]),
        (["run.fresh=true"], ["run.fresh=true: it is about one run"]),
        (["teacher.path=text", "teacher=checkpoint"], ["teacher.path=text"]),
    ],
    ids=lambda each: each[0].partition(":")[0],
)
def test_what_cannot_be_advised_is_one_line(
    place: Path, words: list[str], parts: list[str]
) -> None:
    done = asked(place, "advise.budget=1h", "run.peak_tflops=1e-3", *words)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("dwt-advise: ")
    for part in parts:
        assert part in lines[0]


def test_a_ladder_is_climbed_answered_and_scored(place: Path) -> None:
    old = dwt_train(*options(place), "teacher=none", "student.num_layers=2", cwd=place)
    folder = re.findall(r"^record: (\S+)$", old.stdout, re.MULTILINE)[0]
    words = ["teacher=checkpoint", f"teacher.path={folder}", "student.num_layers=3"]
    words += ["advise.budget=1e7", "advise.share=1"]
    small = asked(place, *words)
    assert small.returncode == 2 and "too small" in small.stderr
    least = re.findall(r"set advise.budget=(\S+) or", small.stderr)[0]
    words[-2] = f"advise.budget={float(least) * 1.1:.3g}"
    done = asked(place, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (said,) = place.glob("runs/studies/advice-*/forecasts.jsonl")
    kept = json.loads(said.read_text())
    assert kept["arms"].keys() == {"alone", "taught", "grown", "both"}
    assert len(list(said.parent.glob("logs/*.json"))) == 24
    command = kept["arms"][kept["advised"]]["command"]
    assert f"\n  {command}\n" in done.stdout
    assert command in (said.parent / "advice.md").read_text()
    again = asked(place, *words)
    assert again.returncode == 0 and "24 of them finished before" in again.stdout
    assert len(said.read_text().splitlines()) == 1
    with locks.take(said.parent / ".advice.lock"):
        held = asked(place, *words)
        assert held.returncode == 2 and "is at work on" in held.stderr
    (said.parent / "advice.json").write_text('{"version": 0}')  # of another version
    assert asked(place, *words).returncode == 0
    few = asked(place, *words, "advise.budget=1e6", f"advise.record=[{said.parent}]")
    assert few.returncode == 2 and "the run of 32 steps that measures takes" in few.stderr
    recorded = asked(place, *words, f"advise.record=[{said.parent}]")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert "what a record says of" in recorded.stdout and "\n  dwt-train " in recorded.stdout
    final = dwt_train(*shlex.split(command)[1:], cwd=place, timeout=250)
    assert final.returncode == 0, final.stderr
    scored = asked(place, "--score")
    assert scored.returncode == 0 and "what was forecast" in scored.stdout, scored.stderr
    came = {
        row["arm"]: (row["came"], row["inside"])
        for row in scores(place / "runs")
        if row["arm"] and said.parent.name.endswith(row["advice"])
    }
    (advised,) = (arm for arm in came if arm.endswith("*"))
    assert float(came.pop(advised)[0]) > 0
    assert set(came.values()) == {("not trained", "")}
