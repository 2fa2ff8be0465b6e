"""A text that its student's teacher has scored: by whom, when, at what cost, and what is read."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from dwt_cli.base.cache import Cache
from dwt_cli.base.machine import Machine
from dwt_cli.base.randomness import seed_for
from dwt_cli.base.ranks import ALONE
from dwt_cli.config.run import Run
from dwt_cli.distill.order import Order
from dwt_cli.models.wrapper import Want
from dwt_cli.recipe import order, plan, worker
from dwt_cli.recipe.order import text_for
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.stage import Done, Site
from dwt_cli.tasks.task import Place
from dwt_cli.track.display import Display
from tests.conftest import outlined
from tests.miniature import dwt_train, options, write_text

WORDS = [
    *("order=difference", "order.budget=0.25", "scale.num_layers=1", "scale.teacher_num_layers=1"),
    *("eval.num_blocks=2", "launch.device=cpu"),
]
BY_TEACHER = ["order=learnable", *WORDS[2:]]
TORCHRUN = ["launch=torchrun", "launch.gpus=2"]
CAUSAL = ["task=clm", "scale.vocab_size=270", "task.separate_documents=true"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    write_text(folder / "text", 12)
    return folder


def before(run: Run) -> Done:
    """The artifacts of all that comes before the student."""
    student, done = recipe_of(run), Done()
    machine = Machine.of(run.launch.device, 1, run.train.precision)
    site = Site(machine, Cache(run.run.cache, print), ALONE)
    with Display(Console(file=io.StringIO())) as show:
        show.expect({stage.name: 0.0 for stage in student.stages})
        for stage in student.in_turn[:-1]:
            done[stage.name] = stage.carry_out(done, site.at(Path(run.run.root), show))
    return done


def nobody(*_: object) -> None:
    raise AssertionError("nobody has to be asked")


@pytest.mark.parametrize("words", [["order.num_patterns=2"], CAUSAL], ids=["masked", "causal"])
def test_losses_are_those_of_each_block_by_itself(
    place: Path, composed: Callable[..., Run], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = composed(*options(place), *WORDS, *words)
    done, student = before(run), recipe_of(run)
    corpus, model = done["corpus"], done["teacher"].signal.model
    targets, num_patterns = run.task.targets(corpus.tokenizer), run.order.num_patterns
    for number in (0, 3, len(corpus.train) - 1):
        found = []
        for pattern in range(num_patterns):
            places = [Place(number, pattern, number)]
            seed = seed_for("order", "targets")
            batch = targets.batch(corpus.train[np.array([number])], seed, places)
            want = Want(ragged=batch.ragged, documents_BL=batch.documents_BL)
            with torch.no_grad():
                logits_NV = model(*batch.inputs, want).logits_NV.double()
            for logits_V, label in zip(logits_NV, batch.labels_N, strict=True):
                found.append(-logits_V.log_softmax(-1)[label].item())
        ordered, count = sorted(found), len(found)
        middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        assert done["scores"][number] == pytest.approx([sum(found) / count, middle], rel=1e-5)
    assert not np.allclose(done["scores"], done["reference"]), "an earlier one knows less"

    ahead = done["reference"][:, 0] - done["scores"][:, 0]
    best = np.sort(np.argsort(-ahead)[: round(0.5 * len(ahead))])
    read = text_for(student, done).train
    assert np.array_equal(read[np.arange(len(read))], corpus.train[best])

    monkeypatch.setattr(order.ScoresStage, "_read", nobody)
    others = before(replace(run, seed=3, order=replace(run.order, share=0.1)))
    assert np.array_equal(others["scores"], done["scores"])


def test_scores_that_a_kill_has_cut_off_are_gone_on_with(
    place: Path, composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = composed(*options(place), *BY_TEACHER)
    monkeypatch.setattr(order, "_TOKENS", 16 * 8)
    monkeypatch.setattr(order, "_SAVED_EVERY", 2)
    read, own = [], order.ScoresStage._losses

    def losses(self: order.ScoresStage, numbers: range, *more: Any) -> list[np.ndarray]:
        read.append(numbers.start)
        if read == [0, 8, 16, 24, 32]:
            raise KeyboardInterrupt
        return own(self, numbers, *more)

    monkeypatch.setattr(order.ScoresStage, "_losses", losses)
    with pytest.raises(KeyboardInterrupt):
        before(run)
    found = before(run)["scores"]
    assert read[5] == 32, "what was read before is kept"
    (kept,) = Path(run.run.cache).glob(f"scores/{recipe_of(run).scores[0].identity}")
    assert not (kept / "begun").exists()
    shutil.rmtree(kept)
    assert np.array_equal(before(run)["scores"], found)
    assert len(read) == 5 + len(found[32::8]) + len(found[::8])


def test_what_a_reference_took_is_known_from_its_record(
    place: Path, tmp_path: Path, composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = before(composed(*options(place), *BY_TEACHER))
    words = [*options(place), *WORDS, f"order.reference={tmp_path}/model"]
    student, whole = recipe_of(composed(*words)), done["corpus"]
    read = replace(whole, train=whole.train.part(np.arange(3)))
    monkeypatch.setattr(order.ScoresStage, "cost", lambda *_: 1.0)
    assert order.account_of(student, read, done)["reference_flops"] is None
    cost = {"student_flops": 5, "teacher_pretraining_flops": 3, "tokens": 9}
    (tmp_path / "summary.json").write_text(json.dumps({"cost": cost}))
    assert order.account_of(student, read, done)["reference_flops"] == 8


def test_reading_all_of_the_text_is_charged(place: Path, composed: Callable[..., Run]) -> None:
    words = [*options(place), *WORDS, "order.num_patterns=3", "scale.epochs=2"]
    run = composed(*words)
    run.run.train_tokens = 16 * 50 + 7
    students = [recipe_of(replace(run, order=each)) for each in (run.order, Order())]
    flops = students[0].shapes.conditions.step_flops(outlined(run.teacher)) / run.train.batch_size
    assert students[0].num_steps({}) == students[1].num_steps({}), "an epoch is the whole text's"
    found = [plan.flops_in_all(student) for student in students]
    assert found[0] == pytest.approx(found[1] + 2 * 3 * 50 * flops)
    printed = io.StringIO()
    machine = Machine.elsewhere(80, run.train.precision)
    plan.print_plan(students[0], run.run, machine, 1, Console(file=printed, width=120))
    assert "25 of 50, scored by 2 models" in printed.getvalue()


@pytest.mark.slow
def test_a_run_says_what_it_has_read(place: Path, composed: Callable[..., Run]) -> None:
    """Its own account, and with what is kept no teacher but the one that is asked once."""
    words = [*options(place), *WORDS, *CAUSAL[:2], "signal=threshold", "order.share=0.25"]
    run = composed(*words, "scale.epochs=1", "scale.max_steps=null")
    worker.work(run, Console(file=io.StringIO()))
    (folder,) = Path(run.run.root).glob("*")
    said = json.loads((folder / "summary.json").read_text())
    student = said["student"]
    blocks, chosen = student["order"]["blocks"], student["order"]["chosen"]
    assert chosen == round(0.25 * blocks) and student["steps"] == round(blocks / 8)
    assert student["epochs"] == pytest.approx(student["steps"] * 8 / chosen)
    assert said["cost"]["scoring_flops"] == student["order"]["flops"] > 0
    assert student["signal"]["blocks"] == chosen, "no other is asked for"
    assert "teacher" not in before(run)


@pytest.mark.slow
def test_any_ranks_score_and_read_the_same(place: Path, tmp_path: Path) -> None:
    """One teacher is asked, for training one on other ranks rounds it: near ties would go over."""
    words = [word for word in options(place) if not word.startswith("run.")]
    losses, tables = [], []
    for name, more in {"one": [], "two": TORCHRUN}.items():
        own = [f"run.root={tmp_path}/{name}/runs", f"run.cache={tmp_path}/{name}/cache"]
        for kind in ("corpus", "teacher") if losses else ():
            shutil.copytree(tmp_path / "one/cache" / kind, tmp_path / name / "cache" / kind)
        ended = dwt_train(*words, *WORDS, *own, *more, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        (lines,) = tmp_path.glob(f"{name}/runs/*/metrics.jsonl")
        each = map(json.loads, lines.read_text().splitlines())
        losses.append([line["train/loss"] for line in each if "train/loss" in line])
        kept = sorted(tmp_path.glob(f"{name}/cache/scores/*/losses.npy"))
        tables.append({path.parent.name: path.read_bytes() for path in kept})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert tables[0] == tables[1] and len(tables[0]) == 2
