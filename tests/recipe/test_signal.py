"""Signals that are cached: who asks, what is found again, and what is never taken for one's own."""

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from dwt_cli.base import atomic
from dwt_cli.base.cache import ABOUT, Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.config.compose import runs_of
from dwt_cli.config.files import SWEEPS
from dwt_cli.config.run import Run, Study
from dwt_cli.data.options import TokenizerKind
from dwt_cli.distill.alpha import Linear
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.signal.options import Online, Sampled, Threshold
from dwt_cli.distill.signal.store import CachedBlock, write_shard
from dwt_cli.launch import sweep
from dwt_cli.recipe import preflight, signal, study_plan
from dwt_cli.recipe.memory import memory
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.stage import Context, Done, Site
from dwt_cli.recipe.student import StudentStage
from dwt_cli.study.record import Job
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.track.display import Display
from dwt_cli.track.summary import Facts, Summary
from tests.miniature import options, write_text
from tests.processes import Started, together
from tests.record import carry_out, metrics

CAUSAL = [
    *("task=clm", "scale.vocab_size=270", "scale.num_layers=1", "scale.teacher_num_layers=1"),
    *("teacher=untrained", "alpha=normal", "signal=threshold", "eval.num_blocks=2"),
]
MASKED = [*CAUSAL[2:], "task=mlm"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    write_text(folder / "text", 12)
    return folder


@pytest.fixture(scope="module")
def causal(place: Path, composed: Callable[..., Run]) -> Run:
    return composed(*options(place), *CAUSAL)


@pytest.fixture(scope="module")
def masked(place: Path, composed: Callable[..., Run]) -> Run:
    return composed(*options(place), *MASKED)


def changed(run: Any, **changes: Any) -> Any:
    """A run with other settings: ``train__batch_size=4``."""
    for setting, value in changes.items():
        group, _, name = setting.partition("__")
        inside = replace(getattr(run, group), **{name: value}) if name else value
        run = replace(run, **{group: inside})
    return run


class Asked:
    """What came of a signal's stage: its artifact, and whether a teacher was needed for it."""

    def __init__(self, student: StudentStage, at: Context) -> None:
        self.done: Done = {}
        at.show.expect({stage.name: 0.0 for stage in student.stages})
        for stage in student.in_turn[:-1]:
            self.done[stage.name] = stage.carry_out(self.done, at)
        self.folder = student.cached.place(at.cache) if student.cached else Path()
        self.prepared = self.done["signal"]
        indices = [np.load(path) for path in self.folder.glob("[0-9]*.npy")]
        self.num_rows = int(sum(index["num_rows"].sum() for index in indices))

    @property
    def by_a_teacher(self) -> bool:
        return "teacher" in self.done


Ask = Callable[..., Asked]


@pytest.fixture
def ask(place: Path, tmp_path: Path) -> Ask:
    """Carry out all before a student, in a cache of the test's own that has the text."""
    if (place / "corpus").exists():
        shutil.copytree(place / "corpus", tmp_path / "corpus")

    def make(run: Run, batch_size: int | None = None, **changes: Any) -> Asked:
        run = changed(run, **changes)
        student = recipe_of(run)
        if batch_size is not None:  # the student's alone: a teacher's is of its own training
            of = changed(student.shapes.conditions, train__batch_size=batch_size)
            student = replace(student, shapes=replace(student.shapes, conditions=of))
        launch = (run.launch.device, run.launch.num_threads, run.train.precision)
        site = Site(Machine.of(*launch), Cache(str(tmp_path), print), ALONE)
        with Display(Console(file=io.StringIO())) as show:
            asked = Asked(student, site.at(tmp_path, show))
        shutil.copytree(tmp_path / "corpus", place / "corpus", dirs_exist_ok=True)
        return asked

    return make


def asked_by(ranks: Ranks, run: Run, folder: Path) -> int:
    """The rows that are cached once a run's ranks have all that comes before the student."""
    site = Site(
        Machine.of(run.launch.device, 1, run.train.precision), Cache(str(folder), print), ranks
    )
    with Display(Console(file=io.StringIO())) as show:
        return Asked(recipe_of(run), site.at(folder, show)).num_rows


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_ask_together_and_find_the_same(
    ask: Ask, causal: Run, num_ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = changed(causal, train__batch_size=6, train__epochs=1.0, train__max_steps=None)
    (tmp_path / "ranks").mkdir()
    cached = together(num_ranks, asked_by, causal, tmp_path / "ranks")
    alone = ask(causal)
    assert alone.by_a_teacher and cached == [alone.num_rows] * num_ranks
    assert asked_by(ALONE, causal, tmp_path / "ranks") == alone.num_rows, "nobody asked again"


def test_a_teacher_is_asked_once_whatever_the_order(ask: Ask, causal: Run) -> None:
    whole = changed(causal, train__epochs=1.0, train__max_steps=None)
    first = ask(whole)
    assert first.by_a_teacher and first.num_rows
    for changes in (
        {"seed": 3},
        {"batch_size": 4},
        {"train__micro_batch_size": 2},
        {"train__epochs": 2.0},
        {"alpha": Linear(), "student__num_layers": 2},
    ):
        again = ask(whole, **changes)
        assert again.folder == first.folder and not again.by_a_teacher, changes
        assert again.prepared.facts == first.prepared.facts
        assert again.num_rows == first.num_rows


def test_what_the_schedule_never_hears_is_not_asked(ask: Ask, causal: Run) -> None:
    some = ask(causal, alpha=Linear(soft_end=0.0, until=0.5))
    assert some.num_rows == some.prepared.signal.account["blocks"] * 15
    assert not ask(causal, alpha=Linear(soft_end=0.0, until=0.2)).by_a_teacher
    more = ask(causal)
    assert more.by_a_teacher, "what only this one hears"
    assert more.num_rows > some.num_rows


def test_masked_rows_belong_to_their_masks(ask: Ask, masked: Run) -> None:
    first = ask(masked)
    for changes in (
        {"alpha": Linear()},
        {"student__num_layers": 2},
        {"train__micro_batch_size": 2},
    ):
        assert not ask(masked, **changes).by_a_teacher, "arms of one seed have the same masks"
    other = ask(masked, seed=1)
    assert other.by_a_teacher
    assert not ask(masked).by_a_teacher
    assert other.num_rows > 1.9 * first.num_rows, "hardly a mask is like another"


def test_stopped_while_it_is_written_it_goes_on(
    ask: Ask, causal: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    causal = changed(causal, train__epochs=1.0, train__max_steps=None)
    monkeypatch.setattr(signal, "BLOCKS_PER_SHARD", 16)
    add, count = atomic.add, iter(range(100))

    def stop(folder: Path, names: list[str]) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        add(folder, names)

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            ask(causal)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("signal/*/00000[01].*")}
    went_on = ask(causal)
    assert went_on.by_a_teacher and len(written) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    shutil.rmtree(went_on.folder)
    whole, (batch,) = ask(causal), batches(went_on)
    ours, theirs = (each.prepared.signal.beside(batch) for each in (went_on, whole))
    assert len(ours) == 8
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def batches(asked: Asked) -> list[Batch]:
    """A batch of the first blocks of its text."""
    places = [Place(number, 0, number) for number in range(4)]
    return [NextToken().batch(asked.done["corpus"].train[np.arange(4)], 0, places)]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _overwrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _exchange(one: Path, other: Path) -> None:
    aside = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(aside)


CENTROIDS = "centroids-of-a-way.npy"
SPOILT: dict[str, Callable[[Path, Path], object]] = {
    "a flipped bit of the rows": lambda ours, other: _flip(ours / "000000.rows"),
    "a flipped bit of the index": lambda ours, other: _flip(ours / "000001.npy"),
    "rows cut short": lambda ours, other: os.truncate(ours / "000000.rows", 9),
    "an index cut short": lambda ours, other: os.truncate(ours / "000000.npy", 150),
    "rows that went on": lambda ours, other: (ours / "000000.rows").open("ab").write(b"more"),
    "rows that are gone": lambda ours, other: (ours / "000001.rows").unlink(),
    "an index that is gone": lambda ours, other: (ours / "000001.npy").unlink(),
    "shards exchanged": lambda ours, other: _exchange(ours / "000000.rows", ours / "000001.rows"),
    "a shard of another teacher": lambda ours, other: shutil.copy(other / "000000.rows", ours),
    "all of another teacher": lambda ours, other: shutil.copytree(other, ours, dirs_exist_ok=True),
    "indices exchanged": lambda ours, other: _exchange(ours / "000000.npy", ours / "000001.npy"),
    "a shard under another number": lambda ours, other: (ours / "000000.rows").rename(
        ours / "000002.rows"
    ),
    "rows in another order": lambda ours, other: _overwrite(
        ours / "000000.rows", lambda content: content[3:] + content[:3]
    ),
    "rows that are zeros": lambda ours, other: _overwrite(
        ours / "000001.rows", lambda content: bytes(len(content))
    ),
    "no rows at all": lambda ours, other: os.truncate(ours / "000001.rows", 0),
    "an index that went on": lambda ours, other: (ours / "000001.npy").open("ab").write(b"0"),
    "an index of another teacher": lambda ours, other: shutil.copy(other / "000001.npy", ours),
    "a flipped bit of the centroids": lambda ours, other: _flip(ours / CENTROIDS),
    "centroids cut short": lambda ours, other: os.truncate(ours / CENTROIDS, 130),
    "centroids that are gone": lambda ours, other: (ours / CENTROIDS).unlink(),
    "centroids of another teacher": lambda ours, other: shutil.copy(other / CENTROIDS, ours),
    "a description that is gone": lambda ours, other: (ours / ABOUT).unlink(),
    "another's description and all": lambda ours, other: (
        shutil.rmtree(ours),
        shutil.copytree(other, ours),
    ),
    "half a manifest": lambda ours, other: os.truncate(ours / atomic.MANIFEST, 40),
    "another's manifest": lambda ours, other: shutil.copy(other / atomic.MANIFEST, ours),
    "another's description": lambda ours, other: _flip(ours / ABOUT),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_was_tampered_with_is_refused(tmp_path: Path, how: str) -> None:
    lines: list[str] = []
    cache = Cache(str(tmp_path), lines.append)
    for name in ("ours", "other"):
        with cache.growing("signal", name, {}) as folder:
            for number in range(2):
                content = f"{name}{number}".encode() * 20
                write_shard(folder, number, [CachedBlock(number + len(name), 1, content)])
            np.save(folder / CENTROIDS, np.full((2, 40), len(name), np.float16))
            atomic.add(folder, [CENTROIDS])
            for number in range(2):
                atomic.add(folder, [f"{number:06d}.{end}" for end in ("rows", "npy")])
    with cache.growing("signal", "ours", {}) as folder:
        assert len(list(folder.glob("*.rows"))) == 2 and not lines
    SPOILT[how](folder, cache.place("signal", "other"))
    with cache.growing("signal", "ours", {}) as folder:
        assert not list(folder.glob("*.rows"))
    (line,) = lines
    assert "signal is made again" in line and "ours.damaged" in line


OTHERWISE: dict[str, dict[str, Any]] = {
    "teacher": {"teacher__seed": 1},
    "a teacher's training": {"teacher__budget": 1.0},
    "a teacher's size": {"teacher__num_layers": 2},
    "a teacher's temperature": {"teacher__temperature": 2.0},
    "temperature": {"objective": {"logits": ForwardKL(temperature=2.0)}},
    "tokenizer": {"data__tokenizer_kind": TokenizerKind.wordpiece},
    "vocabulary": {"data__vocab_size": 280},
    "window": {"data__block_length": 32},
    "text": {"data__heldout_fraction": 0.3},
    "separate documents": {"task__separate_documents": True},
    "estimator": {"signal": Sampled()},
    "entries": {"signal__num_entries": 13},
    "draws": {"signal__seed": 1},
    "centroids": {"signal__num_centroids": 0},
}


def test_rows_of_anything_else_are_others(causal: Run) -> None:
    stages = {what: recipe_of(changed(causal, **how)).cached for what, how in OTHERWISE.items()}
    found = {what: stage.identity for what, stage in stages.items() if stage}
    usual = recipe_of(causal).cached
    assert usual and len({usual.identity, *found.values()}) == len(OTHERWISE) + 1


def test_a_plan_counts_what_no_seed_before_has_asked_for(causal: Run, masked: Run) -> None:
    def costs(run: Run, tokens: int, *seeds: int) -> list[float]:
        asked: dict[str, dict[int, int]] = {}
        found = []
        for seed in seeds:
            student = replace(recipe_of(changed(run, seed=seed)), train_tokens=tokens)
            assert student.cached
            found.append((student.cached.cost_beyond(asked) or 0.0) / student.cached.block_flops)
        return found

    of_run = 6 * 8  # blocks
    patterns = changed(masked, task__num_patterns=2, signal__num_centroids=0)
    causal = changed(causal, signal__num_centroids=0)
    for run, most in ((causal, 100), (patterns, 200)):
        known = costs(run, 100 * 16, 0, 0, 1, 2, 3, 4)
        assert known[:3] == [of_run, 0, of_run]
        assert sum(known) == min(most, 5 * of_run), "the text has no more blocks"
    anew = costs(changed(masked, signal__num_centroids=0), 100 * 16, 0, 0, 1, 2, 3)
    assert anew == [of_run, 0, of_run, of_run, of_run], "each seed has masks of its own"
    once = costs(changed(causal, signal__num_centroids=32), 100 * 16, 0, 0, 1)
    assert once == [of_run + 100, 0, of_run], "centroids are of all runs"


@pytest.mark.slow
def test_killed_while_it_asks_a_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    ends = {}
    for name in ("killed", "undisturbed"):
        folder = tmp_path / name
        folder.mkdir()
        places = [f"run.root={folder}/runs", f"run.cache={folder}/cache"]
        words = [word for word in options(tmp_path) if not word.startswith("run.")]
        longer = ["scale.max_steps=96", "scale.eval_every=96"]  # three shards
        started = Started([*words, *CAUSAL, *longer, *places], folder)

        def shards(folder: Path = folder) -> list[Path]:
            return list(folder.glob("cache/signal/*/[0-9]*.rows"))

        try:
            if name == "killed":
                started.freeze_when(lambda: len(shards()) > 0)
                started.kill()
                kept = {path: path.stat().st_mtime_ns for path in shards()}
                assert not list(folder.glob("runs/*/metrics.jsonl")), "it was still asking"
                started = Started([*words, *CAUSAL, *longer, *places], folder)
            assert started.ended() == 0, started.output
        finally:
            Started.end_all()
        if name == "killed":
            whole = [path for path in kept if path.stat().st_mtime_ns == kept[path]]
            assert whole and len(shards()) > len(kept), "it went on, and asked for nothing twice"
        (weights,) = folder.glob("runs/*/model/model.safetensors")
        ends[name] = weights.read_bytes()
    assert ends["killed"] == ends["undisturbed"]


@pytest.mark.slow
def test_a_run_hears_what_is_kept(place: Path, causal: Run) -> None:
    """With all but one entry of a row it is all but the online run, and no teacher is there."""
    causal = changed(causal, scale=replace(causal.scale), run__cache=str(place))
    summaries = []
    for cached in (Online(), Threshold(269, num_centroids=0)):
        run = changed(
            causal, signal=cached, choices={"teacher": "untrained", "signal": str(cached)}
        )
        folder, _ = carry_out(run)
        summary = json.loads((folder / "summary.json").read_text())
        summaries.append((summary, [s for s in metrics(folder) if "train/soft_loss" in s]))
    (online, theirs), (cached, ours) = summaries
    for name in ("train/soft_loss", "train/teacher_loss", "train/hard_loss"):
        assert [s[name] for s in ours] == pytest.approx([s[name] for s in theirs], abs=3e-3)
    assert cached["teacher"]["heldout"] == online["teacher"]["heldout"]
    student = cached["student"]
    assert student["signal"]["flops"] == cached["cost"]["teacher_forward_flops"]
    assert cached["student"]["flops"] == online["student"]["flops"]
    assert cached["cost"]["teacher_forward_flops"] <= online["cost"]["teacher_forward_flops"]


def test_students_with_capped_logits_have_no_centroids(
    causal: Run, place: Path, composed: Callable[..., Run]
) -> None:
    capped = composed(*options(place), *CAUSAL, "scale.family=gemma2")
    machine = Machine.of(capped.launch.device, 1, capped.train.precision)
    with pytest.raises(UserError, match="num_centroids=32: the student's logits are capped"):
        preflight.check(recipe_of(capped), machine)
    preflight.check(recipe_of(changed(capped, signal__num_centroids=0)), machine)


def test_a_plan_knows_what_centroids_take(causal: Run) -> None:
    machine = Machine(torch.device("cpu"), torch.float32)
    taken = []
    for number in (32, 0):
        shapes = recipe_of(changed(causal, signal__num_centroids=number)).shapes
        taken.append((shapes.taught_flops()[0], memory(shapes, machine).logits))
    (flops, size), (flops_without, size_without) = taken
    width = shapes.student_config.hidden_size
    assert flops - flops_without == 4 * 32 * 270 * width
    assert size - size_without == 4 * 32 * (270 + 2 * width)


@pytest.mark.slow
def test_a_study_asks_for_all_taught_arms_once_or_for_none(tmp_path: Path) -> None:
    def asked(*words: str) -> None:
        arms = [
            '+study.arms.mine="teacher=small alpha=normal signal=threshold"',
            *(f"run.{name}={tmp_path}/{name}" for name in ("root", "cache")),
            *("length=40", "seed=0", "tracker=none", "run.plan=true"),
        ]
        runs, _ = runs_of([*arms, *words], Study, "decoder", str(SWEEPS), is_multirun=True)
        console = Console(file=io.StringIO())
        sweep.carry_out(
            runs, "decoder", [], console, lambda *_: pytest.fail("a plan begins nothing")
        )

    with pytest.raises(UserError, match="arm=mine is asked once, that of arm=normal in each"):
        asked("arm=mine,normal")
    asked("arm=mine,alone,stack")  # nobody else hears its teacher
    smooth = '+study.arms.smooth="teacher=label_smoothing alpha=normal"'
    asked(smooth, "arm=mine,smooth")  # no model is asked
    asked("arm=mine,normal", "study.compares_signals=true")


def test_frozen_patterns_serve_every_seed_and_epoch(ask: Ask, masked: Run) -> None:
    frozen = changed(masked, task__num_patterns=2, train__max_steps=None, train__epochs=2.0)
    first = ask(frozen)
    assert not ask(frozen, seed=1).by_a_teacher
    assert not ask(frozen, train__epochs=3.0).by_a_teacher
    num_blocks = len(first.done["corpus"].train)
    most = 2 * 2 * num_blocks  # two patterns of two targets
    assert most / 2 < first.num_rows <= most


def test_a_study_s_plan_charges_no_finished_run_s_asking_again(causal: Run, tmp_path: Path) -> None:
    run = changed(causal, run__cache=str(tmp_path), run__root=str(tmp_path))
    students = [recipe_of(each) for each in (changed(run, alpha=Linear()), run)]
    jobs = [Job("mine", 1, 0, (), None, None, state) for state in ("missing", "finished")]
    (ended := tmp_path / f"ended-{students[1].identity}").mkdir()
    summary = Summary("ended", "", {}, 0, 1.0, 1.0, {}, Facts(1, {"loss": 3.0}, flops=1.0))
    (ended / "summary.json").write_text(json.dumps(summary.to_json()))

    def in_all() -> str:
        console = Console(file=(told := io.StringIO()), width=120)
        study_plan.print_study_plan(students, jobs, run.run, 1, "mine", console)
        return next(line for line in told.getvalue().splitlines() if "in all" in line)

    whole = sum(stage.cost({}) or 0.0 for stage in students[0].stages if not stage.grows)
    cached, alone = students[1].cached, f" {whole:.3g} "
    assert alone not in in_all(), "what it asked for is not in this cache"
    assert cached
    cached.place(Cache(str(tmp_path), print)).mkdir(parents=True)
    assert alone in in_all()
