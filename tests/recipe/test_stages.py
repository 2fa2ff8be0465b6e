"""A run is a list of stages, and the list suffices: one with two students' stages, gone on with."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import plain
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.config import packing
from dwt_cli.config.run import Run
from dwt_cli.recipe import worker
from dwt_cli.recipe.compiled import compiling_of
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import Record
from dwt_cli.recipe.stage import Site
from dwt_cli.recipe.student import StudentStage
from dwt_cli.track.display import Display, TrainingDisplay
from tests.miniature import options, write_text
from tests.processes import together

FIRST, SECOND = 4, 6
WORDS = ["student.num_layers=2", "train.checkpoint_every=2", "alpha=normal"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    write_text(folder / "text")
    return folder


def of_two_stages(run: Run) -> StudentStage:
    """The features of the teacher for some steps, then its logits for others."""
    last = recipe_of(run)

    def lasting(steps: int, **changed: Any) -> Any:
        return replace(last.shapes, conditions=last.shapes.conditions.lasting(steps), **changed)

    (objective,) = last.shapes.objectives.values()
    first = replace(
        last,
        name="general",
        folder="general",
        shapes=lasting(FIRST, objectives={"half": replace(objective, weight=0.5)}),
    )
    return replace(last, purpose="second", shapes=lasting(SECOND), after=first)


def carried_out(
    recipe: StudentStage, run: Run, ranks: Ranks = ALONE
) -> tuple[dict[str, Any], Path, str]:
    """The summary, the run's directory, and what was printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=120)
    machine = Machine.of(run.launch.device, 1, run.train.precision, ranks)
    site = Site(machine, Cache(run.run.cache, print), ranks)
    called = (Path(run.run.root), "two", recipe.identity, plain(run))
    with Record(*called, print, ranks) as record:
        summary = worker.train(recipe, run.tracker, record, site, console)
    return summary.to_json(), record.folder, printed.getvalue()


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line["step"] for line in map(json.loads, lines) if "train/loss" in line]


@pytest.mark.slow
def test_two_stages_of_a_student(
    place: Path, composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = composed(*options(place), *WORDS)
    recipe = of_two_stages(run)
    general, student = recipe.stages[-2:]
    assert isinstance(general, StudentStage) and isinstance(student, StudentStage)
    assert len({general.identity, student.identity, recipe_of(run).identity}) == 3
    summary, folder, printed = carried_out(recipe, run)

    assert steps(folder / "general") == list(range(1, FIRST + 1))
    assert steps(folder) == list(range(1, SECOND + 1))
    assert summary["student"]["steps"] == SECOND
    for each, stage in ((folder / "general", general), (folder, student)):
        (newest,) = each.glob(f"checkpoints/step-*{stage.num_steps({})}")
        state = json.loads((newest / "state.json").read_text())
        assert state["identity"] == stage.identity
    bars = [line.split()[0] for line in printed.splitlines() if "100%  done" in line]
    assert bars.index("general") < bars.index("student")
    begun, ended = summary["student"]["heldout_at_start"], last_loss(folder / "general")
    assert begun["loss"] == pytest.approx(ended, rel=1e-6), "it goes on where the first has ended"

    run = composed(*options(place), *WORDS, f"run.root={place}/again")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "stepped", stop_at(student.name, step=3))
        with pytest.raises(KeyboardInterrupt):
            carried_out(of_two_stages(run), run)
    resumed, again, printed = carried_out(of_two_stages(run), run)
    assert f"general: going on after step {FIRST}\n" in printed
    assert "student: going on after step 2\n" in printed
    assert resumed["student"]["heldout"] == summary["student"]["heldout"]
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (folder, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def sharded(ranks: Ranks, packed: str) -> dict[str, Any]:
    run = packing.unpacked(packed)
    return carried_out(of_two_stages(run), run, ranks)[0]


@pytest.mark.slow
def test_a_second_stage_of_shards_goes_on_with_the_whole_model(
    place: Path, composed: Callable[..., Run]
) -> None:
    """After a sharded stage one rank alone has its result."""
    words = [*options(place), *WORDS, "train.precision=fp32", "launch.device=cpu"]
    ranks = composed(*words, "parallel=fsdp", f"run.root={place}/ranks")
    run = composed(*words, f"run.root={place}/one")
    alone, _, _ = carried_out(of_two_stages(run), run)
    for summary in together(2, sharded, packing.packed(ranks)):
        for moment in ("heldout_at_start", "heldout"):
            losses = [each["student"][moment]["loss"] for each in (summary, alone)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-4), moment


def stop_at(stage: str, step: int) -> Callable[..., None]:
    """Something that watches a training, and stops it when it has come to a step of a stage."""

    def stepped(watching: TrainingDisplay, at: int, *of_step: object) -> None:
        if (watching.stage, at) == (stage, step):
            raise KeyboardInterrupt

    return stepped


def last_loss(folder: Path) -> float:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [line["heldout/loss"] for line in map(json.loads, lines) if "heldout/loss" in line]
    return float(losses[-1])


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1.0, 2.0])
def test_the_cost_of_a_run_that_epochs_limit_is_known_with_its_text(
    place: Path, composed: Callable[..., Run], epochs: float
) -> None:
    """Before that nobody gives a time; what it then is, is what the same steps cost."""
    words = [*options(place), "train.max_steps=null", f"train.epochs={epochs}"]
    recipe = recipe_of(composed(*words))
    cache = Cache(f"{place}/cache", print)
    assert recipe.cost({}) is None
    with Display(Console(quiet=True), recipe.costs({}, cache)) as show:
        machine = Machine.of(composed().launch.device, 1, composed().train.precision)
        context = Site(machine, cache, ALONE).at(place, show)
        done = {"corpus": recipe.corpus.carry_out({}, context)}
    num_steps = round(epochs * len(done["corpus"].train) / 8)
    assert recipe.num_steps(done) == num_steps
    same = recipe_of(composed(*options(place), f"train.max_steps={num_steps}"))
    assert recipe.costs(done, cache)["student"] == same.cost({}) != 0
    tokens = done["corpus"].report["train_tokens"]
    told = recipe_of(composed(*words, f"run.train_tokens={tokens}"))
    assert told.cost({}) == same.cost({})


@pytest.mark.parametrize(
    ("words", "what"),
    [([], "a model with hooks or computed weights"), (["parallel=fsdp"], "a sharded model")],
)
def test_what_cannot_be_compiled_is_said(
    composed: Callable[..., Run], tmp_path: Path, words: list[str], what: str
) -> None:
    conditions = recipe_of(composed("train.compile=auto", *words)).shapes.conditions
    said: list[str] = []
    ranks, show = SimpleNamespace(size=2, is_first=True), SimpleNamespace(say=said.append)
    at: Any = SimpleNamespace(ranks=ranks, show=show)
    model: Any = None
    compile_loss = (lambda: None) if words else None
    assert compiling_of(conditions, model, compile_loss, tmp_path / "run", at) is None
    assert said == [f"compile: off: {what} is not compiled"]
    decision = json.loads((tmp_path / "run" / "compile.json").read_text())
    assert decision == {"compiled": False, "why": f"off: {what} is not compiled"}


def test_runs_of_a_study_look_at_their_text_once(composed: Callable[..., Run]) -> None:
    first = recipe_of(composed("seed=0"))
    assert recipe_of(composed("seed=1", "teacher=none"), [first]).corpus is first.corpus
    for word in ("data.heldout_fraction=0.3", "task=clm"):
        assert recipe_of(composed(word), [first]).corpus is not first.corpus


@pytest.mark.parametrize("before", [{"began": "then"}, {}])
def test_when_a_run_began_is_what_its_first_start_said(
    before: dict[str, str], tmp_path: Path
) -> None:
    with Record(tmp_path, "run", "1", {"choices": {}}, print, ALONE) as record:
        file = record.folder / "environment.json"
        record.start({"device": "cpu"})
        assert json.loads(file.read_text())["began"].endswith("Z")
        file.write_text(json.dumps({"device": "cpu", **before}))  # older versions said nothing
        record.start({"device": "cpu"})
        assert json.loads(file.read_text())["began"] == before.get("began")
