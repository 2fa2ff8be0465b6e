"""Compiling: a decision that is made once, and code that is loaded only if nobody touched it."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch._inductor import codecache

from dwt_cli.base.machine import Machine
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.checkpoint import Counters
from dwt_cli.training.compiling import COSTS, NUM_PLAIN, Compiling, KeptCode, decide
from dwt_cli.training.loop import Training
from tests.conftest import tiny_architecture

STEP_S = 0.5
MANY, FEW = 100_000, 2 * NUM_PLAIN


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("num_runs", [1, 30])
def test_it_pays_from_a_number_of_steps_on(is_warm: bool, num_runs: int) -> None:
    gain, cold_s, warm_s = COSTS["cpu"]
    # of a run that breaks even: what all of its steps are faster by is what it waits for
    per_run = warm_s + (0 if is_warm else cold_s / num_runs)
    even = per_run / (STEP_S - STEP_S / gain)
    for steps, pays in ((round(even) + 2, True), (round(even) - 2, False)):
        made = decide(STEP_S, steps, "cpu", is_warm, num_runs)
        assert made.compiled is pays
        assert made.why.startswith(f"{'on' if pays else 'off'}: {steps} steps left at 0.50 s")


def test_what_was_never_timed_is_not_compiled() -> None:
    assert not decide(STEP_S, MANY, "cuda", True).compiled


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(tmp_path: Path, said: list[str]) -> Callable[..., KeptCode]:
    return lambda **about: KeptCode(about, said.append, tmp_path / "compiled")


def kept(opened: Callable[..., KeptCode]) -> Path:
    """A folder of code: of a file that a compiler might have written."""
    with opened() as code:
        place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ab" / "kernel.so"
        place.parent.mkdir()
        place.write_text("code")
        assert not code.is_warm
        code.keep()
    (folder,) = (path.parent for path in code._root.glob("*/manifest.json"))
    return folder


def loaded(code: KeptCode) -> list[str]:
    with code:
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return [path.read_text() for path in folder.glob("ab/*")]


def test_kept_code_is_loaded_where_it_fits(opened: Callable[..., KeptCode]) -> None:
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folder = kept(opened)
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert loaded(opened()) == ["code"]
    assert loaded(opened(model="another")) == []
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before


def headers() -> list[str]:
    return [codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR]


@pytest.mark.parametrize("fails", [False, True])
def test_what_opening_changes_is_taken_back(
    opened: Callable[..., KeptCode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = headers()
    reset = Mock(side_effect=RuntimeError if fails else None)
    monkeypatch.setattr("torch._dynamo.reset", reset)
    with pytest.raises(RuntimeError) if fails else nullcontext(), opened():
        assert all(str(tmp_path) in place for place in headers())
    assert headers() == before
    assert not [*(tmp_path / "temporary").iterdir()]


def test_code_is_that_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder may be that of many machines."""
    model = LanguageModel(make_model(tiny_architecture("bert"), 0, "student"), torch.float32)

    def place() -> Path:
        machine = Machine(torch.device("cpu"), torch.float32)
        return KeptCode.of(model, machine, print, shape="any")._place

    here = place()
    assert place() == here
    monkeypatch.setattr("dwt_cli.training.compiling.cpu", lambda: {"model": "another"})
    assert place() != here


def change(folder: Path) -> None:
    (folder / "ab" / "kernel.so").write_text("edoc")


def add(folder: Path) -> None:
    (folder / "ab" / "more.so").write_text("code")


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [change, add, open_to_all, link])
def test_code_that_others_may_have_touched_is_not_loaded(
    harm: Callable[[Path], None], opened: Callable[..., KeptCode], said: list[str]
) -> None:
    folder = kept(opened)
    harm(folder)
    assert loaded(opened()) == []
    (line,) = said
    assert line.startswith("warning: compiled again, since")
    assert str(folder.name) in line or "dwt-" in line


def test_nothing_is_kept_where_others_may_write(
    opened: Callable[..., KeptCode], said: list[str]
) -> None:
    folder = kept(opened)
    folder.parent.chmod(0o770)
    assert loaded(opened()) == []
    assert said[0].startswith("warning: compiled code is neither loaded nor kept")
    with opened(model="another") as code:
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so").write_text("code")
        code.keep()
    assert len([*folder.parent.glob("*/manifest.json")]) == 1


@pytest.fixture
def compiling(
    tmp_path: Path, opened: Callable[..., KeptCode], said: list[str]
) -> Callable[..., Compiling]:
    def make(folder: str = "run", shared: Path | None = None, always: bool = False) -> Compiling:
        model = LanguageModel(make_model(tiny_architecture("bert"), 0, "student"), torch.float32)
        return Compiling(
            model,
            opened(),
            model.compile_layers,
            always,
            "cpu",
            round(100 * STEP_S),
            tmp_path / folder / "compile.json",
            shared,
            said.append,
        )

    return make


def compiled_from(observer: Compiling, num_steps: int, first: int = 0, last: int = FEW) -> int:
    """The step after which the model is compiled, of a training from ``first`` to ``last``."""
    with observer:
        observer.resumed(first)
        for step in range(first + 1, last + 1):
            if observer.model.is_compiled:
                return step - 1
            observer.stepped(step, step / num_steps, {"tokens_per_s": 100.0})
    return -1


def test_a_long_run_is_compiled_after_its_plain_steps_and_goes_on_so(
    compiling: Callable[..., Compiling], said: list[str]
) -> None:
    assert compiled_from(compiling(), MANY) == NUM_PLAIN
    (line,) = said
    assert line.startswith(f"compile: on: {MANY - NUM_PLAIN:,} steps left at 0.50 s, saves about")
    # what remains would not pay: it was decided
    assert compiled_from(compiling(), 20, first=10, last=20) == 10
    assert said == [line]


def test_a_short_run_stays_plain(compiling: Callable[..., Compiling], said: list[str]) -> None:
    assert compiled_from(compiling(), FEW) == -1
    assert said[0].startswith(f"compile: off: {FEW - NUM_PLAIN} steps left")
    assert compiled_from(compiling(always=True), FEW) == 0


def test_the_runs_of_a_study_share_a_decision(
    compiling: Callable[..., Compiling], tmp_path: Path
) -> None:
    shared = tmp_path / "study.json"
    shared.write_text(json.dumps({"num_runs": 1_000}))
    steps = 60  # too few for a run by itself, enough for a thousand of them
    assert compiled_from(compiling("alone"), steps) == -1
    assert compiled_from(compiling("first", shared), steps) == NUM_PLAIN
    assert compiled_from(compiling("second", shared), FEW) == NUM_PLAIN
    assert json.loads((tmp_path / "second" / "compile.json").read_text())["compiled"]


@pytest.mark.parametrize("is_possible", [True, False])
def test_compiled_layers_of_a_checkpoint_go_on_where_that_is_possible(
    training: Callable[..., Training], is_possible: bool
) -> None:
    made = training(max_steps=2)
    counters = Counters(step=2, compiled=True)
    made.checkpoints.save(made.model, made.loss.aux, made.optimizer, counters)
    again = training(max_steps=3, compile="auto")
    begin = again.model.compile_layers if is_possible else None
    with torch.compiler.set_stance("force_eager"):
        counters = replace(again, compile=begin).run()
    assert counters.step == 3
    assert again.model.is_compiled is counters.compiled is is_possible


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_steps_are_the_plain_ones_and_are_loaded_the_second_time(
    training: Callable[..., Training], opened: Callable[..., KeptCode], watcher: type
) -> None:
    losses, sources = [], []
    for start in ("plain", "compiled", "loaded"):
        seen = watcher()
        made = training(folder=start, observer=seen, dropout=0.1, max_steps=4)
        if start == "plain":
            made.run()
        else:
            with opened() as code:
                sources.append(code.is_warm)
                made.model.compile_layers()
                made.loss.compile()
                made.run()
                folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
                sources.append({path.name for path in folder.glob("*/*.so")})
                code.keep()
        losses.append(seen.losses())
    plain, compiled, again = losses
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert again == compiled
    was_warm, first, is_warm, second = sources
    assert (was_warm, is_warm) == (False, True)
    assert first and first == second, "nothing was compiled again"
