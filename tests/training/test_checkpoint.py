"""The resume contract: a continued training is the uninterrupted one, bit by bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.distill.alpha import Overtake
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.loop import Training
from tests.training.conftest import WITH_PROJECTIONS, Crashed, Late, crash_after

Make = Callable[..., Training]


def everything(training: Training) -> dict[str, Any]:
    found = {f"model.{name}": t for name, t in training.model.state_dict().items()}
    found |= {f"aux.{name}": t for name, t in training.loss.aux.state_dict().items()}
    for number, part in enumerate(training.optimizer.parts):
        for index, entries in part.state_dict()["state"].items():
            found |= {f"{number}.{index}.{key}": value for key, value in entries.items()}
    return found


def assert_identical(one: Training, two: Training) -> None:
    ours, theirs = everything(one), everything(two)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


REACTING = {"schedule": Overtake(span=3.0), "objectives": WITH_PROJECTIONS}
LATE = {"schedule": Late(), "objectives": WITH_PROJECTIONS}


@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("parts", [{}, REACTING, LATE], ids=["plain", "reacting", "late"])
def test_straight_or_crashed_and_continued_is_bit_identical(
    training: Make, watcher: Any, optim: str, family: str, parts: dict[str, Any]
) -> None:
    seen = watcher()
    straight = training(optim, family, dropout=0.1, observer=seen, folder="straight", **parts)
    straight.run()

    crashing = training(
        optim,
        family,
        dropout=0.1,
        checkpoint_every=3,
        observer=watcher(then=crash_after(5)),
        **parts,
    )
    with pytest.raises(Crashed):
        crashing.run()
    after = watcher()
    continued = training(optim, family, dropout=0.1, observer=after, **parts)
    torch.manual_seed(123)
    continued.run()
    assert after.starts == [3]
    assert after.losses() == seen.losses()[3:]
    assert after.evaluations == seen.evaluations
    assert_identical(continued, straight)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_restored_into_fresh_objects_it_is_the_same(training: Make, optim: str) -> None:
    made = training(optim, max_steps=3)
    counters = made.run()
    fresh = training(optim, max_steps=3)
    assert not torch.equal(*(next(t.model.parameters()) for t in (made, fresh)))
    assert fresh.checkpoints.restore(fresh.model, fresh.loss.aux, fresh.optimizer) == counters
    assert_identical(made, fresh)
    rates = [[g["lr"] for part in made.optimizer.parts for g in part.param_groups]]
    for each in (made, fresh):
        each.optimizer.set_lr(0.5)
        rates.append([g["lr"] for part in each.optimizer.parts for g in part.param_groups])
    assert rates[1] == rates[2] != rates[0], "the options' own, at any time"


@pytest.fixture
def saved(training: Make) -> Training:
    """Sealed checkpoints at steps 3 and 6."""
    made = training(checkpoint_every=3)
    made.run()
    return made


def restore(
    training: Make, tmp_path: Path, messages: list[str], identity: str = "identity"
) -> Counters:
    fresh = training()
    return Checkpoints(tmp_path / "checkpoints", identity, 2, messages.append).restore(
        fresh.model, fresh.loss.aux, fresh.optimizer
    )


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights": lambda place: _flip(place / "model.safetensors"),
    "state": lambda place: _flip(place / "state.json"),
    "missing": lambda place: (place / "optimizer.safetensors").unlink(),
    "short": lambda place: (place / "optimizer.safetensors").write_bytes(b""),
    "manifest": lambda place: (place / "manifest.json").write_bytes(b"\xff\x00"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    saved: Training, training: Make, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "checkpoints" / "step-00000006"
    DAMAGE[kind](place)
    messages: list[str] = []
    assert restore(training, tmp_path, messages).step == 3
    assert len(messages) == 1
    assert str(place) in messages[0]
    assert restore(training, tmp_path, messages).step == 3
    assert len(messages) == 1, "it is reported once"


def test_when_all_are_damaged_it_begins_anew(
    saved: Training, training: Make, tmp_path: Path
) -> None:
    for place in (tmp_path / "checkpoints").glob("step-*"):
        _flip(place / "model.safetensors")
    messages: list[str] = []
    assert restore(training, tmp_path, messages) == Counters()
    assert [
        line for step in (6, 3) for line in messages if f"step-0000000{step}" in line
    ] == messages[:2]


def test_what_is_half_written_does_not_count(
    saved: Training, training: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step-00000006", folder / "step-00000009")
    (folder / "step-00000009" / "manifest.json").unlink()
    shutil.copytree(folder / "step-00000003", folder / ".writing")
    messages: list[str] = []
    assert restore(training, tmp_path, messages).step == 6
    assert messages == []
    saved.checkpoints.save(saved.model, saved.loss.aux, saved.optimizer, Counters(step=9))
    assert restore(training, tmp_path, messages).step == 9
    assert not (folder / ".writing").exists()


def test_a_checkpoint_of_another_training_is_refused(
    saved: Training, training: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="of another run"):
        restore(training, tmp_path, [], identity="another")


def test_the_last_few_and_the_best_are_kept(training: Make, tmp_path: Path) -> None:
    made = training()
    checkpoints = Checkpoints(tmp_path / "kept", "identity", 2, print)
    kept = []
    for step in range(1, 7):
        checkpoints.save(
            made.model,
            made.loss.aux,
            made.optimizer,
            Counters(step=step, best_loss=1.0, best_step=min(step, 2)),
        )
        kept.append(checkpoints.steps())
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]


def test_nothing_in_a_checkpoint_is_a_pickle(saved: Training, tmp_path: Path) -> None:
    place = tmp_path / "checkpoints" / "step-00000006"
    assert sorted(path.name for path in place.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    state = json.loads((place / "state.json").read_text())
    assert state["identity"] == "identity"
    assert state["counters"]["step"] == 6


PARTS = {"optim": "muon", "objectives": WITH_PROJECTIONS}


@pytest.mark.parametrize("compiled", [False, True])
def test_tensors_are_named_after_their_parameters(
    training: Make, tmp_path: Path, compiled: bool
) -> None:
    made = training(**PARTS, compiled=compiled)
    training(**PARTS, max_steps=1).run()  # its moments, without waiting for a compilation
    made.checkpoints.restore(made.model, made.loss.aux, made.optimizer)
    made.checkpoints.save(made.model, made.loss.aux, made.optimizer, Counters(step=2))
    place = tmp_path / "checkpoints" / "step-00000002"
    model, aux = dict(made.model.named_parameters()), dict(made.loss.aux.named_parameters())
    assert load_file(place / "model.safetensors").keys() == model.keys(), "a tied one once"
    assert load_file(place / "aux.safetensors").keys() == aux.keys()
    found = load_file(place / "optimizer.safetensors")
    moving = {f"model.{name}" for name in model} | {f"aux.{name}" for name in aux}
    assert {name.rpartition(".")[0] for name in found} == moving
    weight = "model.model.bert.embeddings.word_embeddings.weight"
    entries = {name for name in found if name.startswith(f"{weight}.")}
    assert entries == {f"{weight}.{entry}" for entry in ("step", "exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_an_older_checkpoint_with_numbers_for_names_opens(
    training: Make, tmp_path: Path, optim: str
) -> None:
    parts = {"optim": optim, "objectives": WITH_PROJECTIONS, "max_steps": 3}
    made = training(**parts)
    made.run()
    place = tmp_path / "checkpoints" / "step-00000003"
    state = json.loads((place / "state.json").read_text())
    tensors, state["optimizer"] = {}, []
    for number, part in enumerate(made.optimizer.parts):
        of_part = part.state_dict()
        for index, entries in of_part["state"].items():
            tensors |= {f"{number}.{index}.{key}": value for key, value in entries.items()}
        state["optimizer"].append({"param_groups": of_part["param_groups"]})
    save_file(tensors, place / "optimizer.safetensors")
    atomic.write_json(place / "state.json", state)
    atomic.seal(place)
    fresh = training(**parts)
    fresh.checkpoints.restore(fresh.model, fresh.loss.aux, fresh.optimizer)
    assert_identical(made, fresh)


def test_an_optimizer_that_has_done_nothing_stays_so(training: Make) -> None:
    """As after steps that were all skipped: torch's functions would count a step of zeros."""
    made, fresh = training(), training()
    made.checkpoints.save(made.model, made.loss.aux, made.optimizer, Counters(step=1))
    fresh.checkpoints.restore(fresh.model, fresh.loss.aux, fresh.optimizer)
    assert not any(part.state for t in (made, fresh) for part in t.optimizer.parts)
    assert_identical(made, fresh)
