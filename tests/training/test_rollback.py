"""Going back after a step that cannot be trained on, and what a step is compared with."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from dwt_cli.base.errors import UserError
from dwt_cli.config import check
from dwt_cli.config.compose import runs_of
from dwt_cli.recipe import worker
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.loop import Training
from dwt_cli.training.options import NonFinite, Train
from dwt_cli.training.rollback import Diverged, Rollback, Rollbacks, RolledBack
from tests.miniature import options, write_text
from tests.training.test_loop import Toy, toy_training


def of(*known: Rollback) -> Rollbacks:
    return Rollbacks(Checkpoints(Path("nowhere"), "", 2, print), Train(), known)


@pytest.mark.parametrize("number", range(20))
def test_no_text_of_an_undone_step_is_read_again(number: int) -> None:
    """Against a reader who turns pages: a rollback turns none back."""
    draw, known, page_of, page = random.Random(number), list[Rollback](), dict[int, int](), 0
    step = 0
    while step < 40:
        page_of[step], page = page, page + 1
        if len(known) < 4 and draw.random() < 0.2:
            back = draw.randint(0, step)
            known.append(Rollback(step + 1, back, page, "nan", 0, 0, 0.0))
            step = back
        else:
            step += 1
    assert [of(*known).text_of(each) for each in range(40)] == [page_of[each] for each in range(40)]


def rising(weight: Any, step: int) -> Any:
    """8 nats in the sixth step, 3 in the others."""
    return weight.square().sum() * 0 + (32.0 if step == 5 else 12.0)


def test_a_loss_that_rises_too_far_is_answered_like_one_that_is_no_number(
    training: Any, watcher: Any
) -> None:
    made = toy_training(training, Toy(rising), watcher(), max_steps=8, max_rise=4.0)
    with pytest.raises(Diverged, match=r"^step 6: hard loss 8, 5 nats above that of the"):
        made.run()
    skipping = {"max_steps": 8, "non_finite": NonFinite.skip, "folder": "skipping"}
    for most, num_skipped in ((4.0, 1), (6.0, 0), (None, 0)):
        made = toy_training(training, Toy(rising), watcher(), **skipping, max_rise=most)
        shutil.rmtree(made.checkpoints.folder, ignore_errors=True)
        assert made.run().num_skipped == num_skipped


# ---------------------------------------------------------------------------------- a whole run

Go = Callable[..., Path]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Train 8 steps, with a checkpoint after each two; return the run's folder."""
    write_text(tmp_path / "text")

    def run(*more: str) -> Path:
        words = [*options(tmp_path), "train.max_steps=8", "train.checkpoint_every=2", "alpha=step"]
        words += ["train.non_finite=rollback", "train.rollback_steps=2"]
        words += ["eval.at=[0.625]", "eval.measures=[lm]", *more]
        (asked,), _ = runs_of(words)
        check.check(asked)
        worker.work(asked, Console(quiet=True))
        (folder,) = (tmp_path / "runs").glob("*/")
        return folder

    return run


def plant(monkeypatch: pytest.MonkeyPatch, *texts: int) -> None:
    """Let the loss on the text of these steps, counted from 0, be no number."""
    accumulate = Training.accumulate

    def planted(self: Any, step: int, moment: Any) -> dict[str, float]:
        metrics = accumulate(self, step, moment)
        is_there = self.batches.rollbacks.text_of(step) in texts
        return metrics | {"loss": math.nan} if is_there else metrics

    monkeypatch.setattr(Training, "accumulate", planted)


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint_with_the_text_that_follows(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit as a training that has jumped over that text from the beginning."""
    with monkeypatch.context() as inside:
        plant(inside, 5)  # the teacher, which has been let go of by then, has four steps
        folder = go()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["student"]["num_undone"] == 3
    assert summary["student"]["flops"] == 11 * summary["student"]["step_flops"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [each["step"] for each in lines if "train/loss" in each] == list(range(1, 9))
    (known,) = json.loads((folder / "checkpoints/rollbacks.json").read_text())
    assert (known["failed"], known["back"]) == (6, 3)

    models = ("model/model.safetensors", "snapshots/0.625/model.safetensors")
    found = [load_file(folder / name) for name in models]
    shutil.copy(folder / "checkpoints/rollbacks.json", folder.parent.parent)
    shutil.rmtree(folder)
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(folder.parent.parent / "rollbacks.json", folder / "checkpoints")
    assert go() == folder
    for name, before in zip(models, found, strict=True):
        again = load_file(folder / name)
        assert all(again[key].equal(value) for key, value in before.items()), name


@pytest.mark.slow
def test_there_are_so_many_at_most(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, 5, 6, 7)
    with pytest.raises(UserError, match=r"^step 2: loss nan, .* raise train.max_rollbacks"):
        go("train.max_rollbacks=2")


def test_a_kill_before_it_changes_nothing(tmp_path: Path, training: Any) -> None:
    """A signal's checkpoint, at a step of its own, is not where a rollback leads to."""
    made, found = training(), []
    for extra in ([], [7]):
        checkpoints = Checkpoints(tmp_path / f"{extra}", "it", 2, print, behind=3)
        for step in sorted([2, 4, 6, 8, *extra]):
            counters = Counters(step=step, elapsed_s=float(step), memory={"num_taught": step})
            checkpoints.save(made.model, made.loss.aux, made.optimizer, counters)
        rollbacks = Rollbacks.of(
            checkpoints,
            Train(10, None, batch_size=1, non_finite=NonFinite.rollback, rollback_steps=3),
        )
        with pytest.raises(RolledBack), rollbacks.rolling_back(tmp_path, 1.0):
            raise Diverged("nan", "", Counters(8, 8.5, memory={"num_taught": 8}))
        (known,) = Rollbacks.of(checkpoints, rollbacks.options).known
        assert (known.undone, known.taught, known.seconds) == (5, 4, 4.5)
        assert checkpoints.steps() == [4]
        found.append(known)
    assert found[0] == found[1] == Rollback(9, 5, 9, "nan", 5, 4, 4.5)


def test_a_damaged_record_is_not_taken_for_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "it", 2, print)
    assert Rollbacks.of(checkpoints, Train()).known == ()
    for damage in ("", "[{}]", '{"a": 1}'):
        (tmp_path / "rollbacks.json").write_text(damage)
        with pytest.raises(UserError, match=r"rollbacks.json is damaged"):
            Rollbacks.of(checkpoints, Train())
