"""The step at which a teacher is left: found, kept, charged, and said."""

import contextlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.ranks import Ranks
from dwt_cli.config import packing
from dwt_cli.config.run import Run
from dwt_cli.recipe import worker
from dwt_cli.recipe.crossover import CrossingStage, extrapolated
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.track.display import TrainingDisplay
from dwt_cli.track.summary import Facts, Summary
from tests.miniature import options, write_text
from tests.processes import together
from tests.record import carry_out, metrics

STEPS, FADE = 48, 0.125
WORDS = [
    *("alpha=crossover", f"alpha.fade={FADE}", "alpha.calibration=0.5", "optim.lr=0.02"),
    *(f"scale.max_steps={STEPS}", "scale.eval_every=4", "scale.teacher_steps=16"),
    "eval.num_blocks=16",
]

Answer = tuple[dict[str, Any], str]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("crossover") / "text")


@pytest.fixture
def words(text: Path, tmp_path: Path) -> list[str]:
    return [*options(tmp_path), f"data.path={text}", *WORDS]


@pytest.fixture
def run(words: list[str], composed: Callable[..., Run]) -> Callable[..., Answer]:
    """The summary of a run, with its folder, and what was printed."""

    def make(*more: str) -> Answer:
        asked = composed(*words, *more)
        folder, printed = carry_out(replace(asked, overrides=[]))
        summary = json.loads((folder / "summary.json").read_text())
        return {**summary, "folder": folder}, printed

    return make


def curve_of(folder: Path) -> list[tuple[int, float]]:
    lines = metrics(folder)
    return [(int(line["step"]), line["heldout/loss"]) for line in lines if "heldout/loss" in line]


def calibrations(place: Path) -> list[Path]:
    return [path.parent for path in (place / "cache" / "curve").glob("*/metrics.jsonl")]


def weights_of(folder: Path) -> list[float]:
    return [line["train/alpha_soft"] for line in metrics(folder) if "train/alpha_soft" in line]


def slowly_crossed(curve: Sequence[tuple[int, float]], level: float) -> int:
    """The first whole step at which the line through the points is at a level, or below."""
    steps, losses = zip(*curve, strict=True)
    return next(n for n in range(steps[-1] + 1) if np.interp(n, steps, losses) <= level + 1e-12)


@pytest.mark.parametrize(("warmup", "rest", "gap", "power"), [(0, 3.0, 2.0, 0.5), (6, 0, 9, 0.2)])
def test_a_power_law_is_followed_step_by_step(
    warmup: int, rest: float, gap: float, power: float
) -> None:
    rates = [min(1.0, step / warmup) if warmup else 1.0 for step in range(40)]

    def loss(step: int) -> float:
        return rest + gap * (sum(rates) + step - 40 if step > 40 else sum(rates[:step])) ** -power

    points = [(0, 99.0), *((step, loss(step)) for step in range(4, 41, 4))]
    for level in (loss(40) - 0.01, loss(40) - 0.1, loss(400)):
        slow = next(step for step in range(40, 10_000) if loss(step) <= level)
        assert math.ceil(extrapolated(points, rates, level) - 1e-3) == slow
    assert extrapolated(points, rates, rest - 0.01) == math.inf or rest == 0
    assert extrapolated([(0, 9.0), (4, 5.0), (8, 5.1), (12, 5.2)], rates, 4.9) == math.inf


def test_noise_is_averaged_as_a_grid_of_laws_would() -> None:
    draw = np.random.default_rng(0)
    steps = np.arange(4, 81, 4)
    losses = 3 + 2 * steps**-0.6 + draw.normal(0, 0.003, len(steps))
    level = losses[-1] - 0.03
    fits = []
    for power in np.linspace(0.01, 4, 2000):
        gap, rest = np.polyfit((steps / 80.0) ** -power, losses, 1)
        error = np.square(rest + gap * (steps / 80.0) ** -power - losses).sum()
        fits.append((error, 80 * (gap / max(level - rest, 1e-9)) ** (1 / power)))
    points = [*zip(steps.tolist(), losses.tolist(), strict=True)]
    assert extrapolated(points, [1.0] * 80, level) == pytest.approx(min(fits)[1], rel=0.02)


@pytest.mark.slow
def test_a_calibration_goes_on_until_the_loss_is_reached_and_is_charged(
    run: Callable[..., Answer], tmp_path: Path
) -> None:
    early, printed = run("alpha.margin=0.3")
    (place,) = calibrations(tmp_path)
    first = curve_of(place)
    check_found(early, first, printed, flops_for=first[-1][0])
    assert first[-1][0] < STEPS / 2 and place.suffix == ".partial"

    later, printed = run("alpha.margin=0")
    second = curve_of(place)
    assert f"crossing: going on after step {first[-1][0]}\n" in printed
    assert second[: len(first)] == first and len(second) > len(first)
    check_found(later, second, printed, flops_for=second[-1][0])


@pytest.mark.slow
def test_beyond_a_whole_calibration_the_law_goes_on(
    run: Callable[..., Answer], tmp_path: Path
) -> None:
    """It is the stand-alone student at a constant rate; and less of it is charged to others."""
    beyond, _ = run("scale.teacher_steps=48")
    (place,) = calibrations(tmp_path)
    whole, crossing = curve_of(place), beyond["student"]["crossing"]
    assert whole[-1][0] == STEPS / 2 and not place.suffix, "it is kept"
    assert crossing["step"] > STEPS / 2 and "a power law beyond" in crossing["why"]
    assert beyond["cost"]["calibration_flops"] == STEPS / 2 * beyond["student"]["step_flops"]

    trunk, _ = run("teacher=none", f"scale.max_steps={STEPS // 2}", "scale.eval_every=3",
                   "optim.warmup=0.1", "optim.decay=0")  # fmt: skip
    assert [y for _, y in whole] == pytest.approx([y for _, y in curve_of(trunk["folder"])])

    early, printed = run("alpha.margin=0.3")
    needed = next(step for step, y in whole if y <= early["student"]["crossing"]["level"])
    check_found(early, whole, printed, flops_for=needed)


def check_found(
    summary: dict[str, Any], curve: Sequence[tuple[int, float]], printed: str, flops_for: int
) -> None:
    """The step is where the curve comes to the level, and that is what the run did and says."""
    crossing, step_flops = summary["student"]["crossing"], summary["student"]["step_flops"]
    step = slowly_crossed(curve, crossing["level"])
    assert crossing["step"] == step and f"at step {step} of {STEPS}" in crossing["why"]
    assert printed.count(crossing["why"]) == 2, "when it is found, and at the end"
    faded = [4 * (1 - n / (FADE * STEPS)) for n in range(int(FADE * STEPS))]
    weights = [*[4.0] * step, *faded, *[0.0] * STEPS][:STEPS]
    assert weights_of(summary["folder"]) == pytest.approx(weights)
    assert summary["student"]["num_taught"] == sum(weight > 0 for weight in weights)
    assert summary["cost"]["calibration_flops"] == flops_for * step_flops
    assert (", calibration " in printed) == bool(flops_for)


@pytest.mark.slow
def test_the_run_on_record_costs_nothing(
    run: Callable[..., Answer], words: list[str], composed: Callable[..., Run], tmp_path: Path
) -> None:
    """Whatever the student starts from; and what is found is planned, and stays."""
    more = ["task=clm", "scale.vocab_size=300", "student.num_layers=4"]
    taught_by = [*more, "alpha.margin=0.1", "scale.teacher_num_layers=2", "remap=stack"]
    stage = recipe_of(composed(*words, *taught_by)).crossing
    assert stage is not None
    cache = Cache(f"{tmp_path}/cache", print)
    assert stage.planned(cache).startswith("by calibration, ")
    alone, _ = run(*more, "teacher=none")
    again = recipe_of(composed(*words, *taught_by)).crossing
    assert again is not None and again.planned(cache).startswith(
        "by the curve of none-files-clm-seed0-"
    )
    assert (again.cost({}), again.identity) == (0, stage.identity)
    taught, printed = run(*taught_by)
    check_found(taught, curve_of(alone["folder"]), printed, flops_for=0)
    assert not calibrations(tmp_path)
    assert again.planned(cache) == taught["student"]["crossing"]["why"]


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_step_it_began_with(
    run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Though the stand-alone run, whose curve is another one, has come on record in between."""
    more = ["alpha.margin=0.1", "train.checkpoint_every=2"]
    stepped = TrainingDisplay.stepped

    def stop(watching: TrainingDisplay, step: int, *of_step: Any) -> None:
        if (watching.stage, step) == ("student", 5):
            raise KeyboardInterrupt
        stepped(watching, step, *of_step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "stepped", stop)
        with pytest.raises(KeyboardInterrupt):
            run(*more)
    (place,) = calibrations(tmp_path)
    run(*more, "teacher=none")
    summary, printed = run(*more)
    assert "student: going on after step 4\n" in printed
    curve = curve_of(place)
    check_found(summary, curve, printed, flops_for=curve[-1][0])


def alone_on_record(place: Path, stage: CrossingStage, curve: Sequence[tuple[int, float]]) -> Path:
    folder = place / "runs" / f"none-{stage.alone.identity}"
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "heldout/loss": y}) for step, y in curve]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    summary = Summary("none", "", {}, 0, 1.0, 1.0, {}, Facts(1, {"loss": 4.0}))
    (folder / "summary.json").write_text(json.dumps(summary.to_json()))
    return folder


def test_a_run_on_record_without_a_curve_is_none(
    words: list[str], composed: Callable[..., Run], tmp_path: Path
) -> None:
    stage = recipe_of(composed(*words)).crossing
    assert stage is not None
    alone_on_record(tmp_path, stage, [])
    assert stage.on_record is None
    assert stage.planned(Cache(f"{tmp_path}/cache", print)).startswith("by calibration, ")


def test_a_run_that_only_a_study_has_kept_is_on_record(
    words: list[str], composed: Callable[..., Run], tmp_path: Path
) -> None:
    """As on a machine to which runs.jsonl was copied; a folder that is there comes first."""
    stage = recipe_of(composed(*words)).crossing
    assert stage is not None
    place, curve = tmp_path / "runs" / "studies" / "payoff", [[0, 6.0], [3, 4.5], [48, 4.01]]
    place.mkdir(parents=True)
    study = {"name": "payoff", "jobs": [{"identity": stage.alone.identity}]}
    other = {"summary": {"name": "other", "identity": "0" * 16}, "curve": [[0, 9.0]]}
    alone = {"summary": {"name": "none", "identity": stage.alone.identity}, "curve": curve}
    (place / "runs.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in (study, other)))
    assert stage.on_record is None
    lines = "".join(f"{json.dumps(each)}\n" for each in (study, other, alone))
    (place / "runs.jsonl").write_text(lines)
    assert stage.on_record == ("none", curve) and stage.cost({}) == 0
    planned = stage.planned(Cache(f"{tmp_path}/cache", print))
    assert planned == "by the curve of none on record, when the teacher is there"
    folder = alone_on_record(tmp_path, stage, [(0, 7.0), (48, 4.0)])
    assert stage.on_record == (folder.name, [(0, 7.0), (48, 4.0)])


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (3.0, ["never comes to 3.020", f"in {STEPS} steps", "alpha=strong", "remap=stack"]),
        (6.0, ["begins at 6.020", "nobody teaches", "choose a better teacher"]),
        (4.0, [f"comes to 4.020, the teacher's loss plus 0.02, at step 48 of {STEPS}"]),
        (5.0, [f"comes to 5.020, the teacher's loss plus 0.02, at step 2 of {STEPS}"]),
    ],
)
def test_what_is_said_of_a_curve_on_record(
    words: list[str], composed: Callable[..., Run], tmp_path: Path, teacher: float, said: list[str]
) -> None:
    """Of a teacher that is never reached, one that is behind from the start, and two between."""
    student = recipe_of(composed(*words))
    stage, cache = student.crossing, Cache(f"{tmp_path}/cache", print)
    assert stage is not None and student.teacher is not None
    folder = alone_on_record(tmp_path, stage, [(0, 6.0), (3, 4.5), (48, 4.01)])
    (made := tmp_path / "made").mkdir()
    (made / "facts.json").write_text(json.dumps(Facts(1, {"loss": teacher}).to_json()))
    atomic.publish(made, student.teacher.place(cache))
    planned = stage.planned(cache)
    assert planned.startswith(f"crossover: the stand-alone student ({folder.name}, its rate decay")
    assert all(each in planned for each in said), planned
    # in epochs of a text that is not there yet, nothing is known of the length
    by_text = recipe_of(composed(*words, "scale.max_steps=null", "scale.epochs=1")).crossing
    assert by_text is not None
    folder.rename(folder.with_name(f"none-{by_text.alone.identity}"))
    planned = by_text.planned(cache)
    assert (
        planned
        == f"by the curve of none-{by_text.alone.identity} on record, when the teacher is there"
    )


def of_rank(ranks: Ranks, packed: str) -> dict[str, Any]:
    asked = packing.unpacked(packed)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "joined", lambda *_: contextlib.nullcontext(ranks))
        worker.work(asked, Console(file=printed, width=200))
    (folder,) = Path(asked.run.root).glob("*-seed0-*")
    found: dict[str, Any] = json.loads((folder / "crossing.json").read_text())
    return found


@pytest.mark.slow
def test_several_ranks_find_the_same(
    words: list[str], composed: Callable[..., Run], run: Callable[..., Answer], tmp_path: Path
) -> None:
    """Once and, by another margin, from where it was left."""
    cpu = ["train.precision=fp32", "launch.device=cpu"]
    for margin in ("alpha.margin=0.3", "alpha.margin=0.0"):
        alone, _ = run(*cpu, margin)
        ours = alone["student"]["crossing"]
        root = [f"run.root={tmp_path}/runs_{margin[-3:]}", f"run.cache={tmp_path}/ranks"]
        asked = composed(*words, *cpu, margin, *root)
        for found in together(2, of_rank, packing.packed(asked)):
            assert found["step"] == ours["step"] and found["flops"] == ours["flops"]
            assert found["level"] == pytest.approx(ours["level"], rel=1e-4)  # Muon is in bf16
