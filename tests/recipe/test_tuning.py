"""``tuning=dsee`` from its command to what it leaves behind."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dwt_cli.config.run import Run
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.checkpoint import open_folder, save_model
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Head
from dwt_cli.recipe import worker
from dwt_cli.recipe.memory import state
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.training.checkpoint import Checkpoints
from tests.conftest import VOCAB_SIZE, tiny_architecture
from tests.miniature import SCALE, dwt_train, write_text
from tests.recipe import test_labelled as labelled
from tests.record import Done, carry_out, metrics

Composed = Callable[..., Run]
DSEE = ["tuning=dsee", "tuning.rank=3", "tuning.num_sparse=5", "tuning.prune=0.25"]
TRAINED = 2 * 2 * (3 * (16 + 16) + 5)  # of two layers' queries and values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """A text, and models with one tokenizer."""
    folder = tmp_path_factory.mktemp("tuning")
    write_text(folder / "text")
    for family in ("bert", "modernbert"):
        model = make_model(tiny_architecture(family), 0, "student")
        save_model(model, corpus.tokenizer, folder / family)
    return folder


def words_of(place: Path, *words: str, student: str = "modernbert") -> list[str]:
    return [
        *SCALE,
        f"scale.vocab_size={VOCAB_SIZE}",
        "eval.num_blocks=16",
        "train.precision=fp32",
        "optim.lr=3e-2",
        "data=files",
        f"data.path={place}/text",
        "data.heldout_fraction=0.2",
        "student=checkpoint",
        f"student.path={place}/{student}",
        "teacher=none",
        f"run.cache={place}/cache",
        f"run.root={place}/runs",
        *words,
    ]


def train(composed: Composed, place: Path, *words: str, **more: Any) -> Done:
    run = composed(*words_of(place, *words, **more))
    run.overrides = list(words)
    return carry_out(run)


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_tuned_student_is_an_ordinary_model(composed: Composed, place: Path) -> None:
    folder, printed = train(composed, place, *DSEE, "tuning.heads=1", "eval.at=[0,0.5,1]")
    summary, start = summary_of(folder), weights_of(place / "modernbert")
    student = summary["student"]
    assert student["tuning"]["trained"] == TRAINED
    assert student["parameters"] == num_parameters(open_folder(folder / "model", Head.masked))
    assert f"tuning: {TRAINED} numbers were trained" in printed
    card = (folder / "model" / "README.md").read_text()
    assert f"{TRAINED} of its numbers were trained" in card
    for saved in (folder / "model", folder / "snapshots" / "0.5"):
        after = weights_of(saved)
        assert {name: each.shape for name, each in after.items()} == {
            name: each.shape for name, each in start.items()
        }
        same = {name for name in start if torch.equal(start[name], after[name])}
        assert all(".layers." in name and name.endswith("weight") for name in start.keys() - same)
        assert not any("norm" in name for name in start.keys() - same)
    begun = weights_of(folder / "snapshots" / "0")
    assert all(torch.equal(begun[name], start[name]) for name in start)
    kept = sorted(folder.glob("checkpoints/step-*"))[-1]
    moments = load_file(kept / "optimizer.safetensors")
    sizes = [each.numel() for name, each in moments.items() if name.endswith("exp_avg")]
    assert sum(sizes) == TRAINED
    run = recipe_of(composed(*words_of(place, *DSEE)))
    assert student["step_flops"] == run.shapes.step_flops
    assert student["step_flops"] < recipe_of(composed(*words_of(place))).shapes.step_flops


@pytest.mark.slow
def test_what_is_stopped_goes_on_to_the_bit(
    composed: Composed, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*DSEE, "tuning.heads=1", "train.max_steps=8", "train.checkpoint_every=2", "seed=3"]
    whole, _ = train(composed, place, *words, f"run.root={place}/whole")
    save = Checkpoints.save
    for last in (2, 4, 6):  # before weights are removed, at that step, and after it

        def stop(self: Checkpoints, *given: Any, last: int = last) -> None:
            save(self, *given)
            if given[-1].step >= last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "save", stop)
            with pytest.raises(KeyboardInterrupt):
                train(composed, place, *words)
    again, _ = train(composed, place, *words)
    assert metrics(again) == metrics(whole)
    ours, theirs = (weights_of(folder / "model") for folder in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert summary_of(again)["student"]["tuning"] == summary_of(whole)["student"]["tuning"]


@pytest.mark.slow
def test_micro_batches_change_nothing_but_rounding(composed: Composed, place: Path) -> None:
    words = [*DSEE, "seed=4", "teacher=virtual", "alpha=normal"]
    whole, _ = train(composed, place, *words, student="bert")
    more = ["train.micro_batch_size=2", f"run.root={place}/mb"]
    parts, _ = train(composed, place, *words, *more, student="bert")
    for ours, theirs in zip(metrics(parts), metrics(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (summary_of(folder)["student"]["step_flops"] for folder in (parts, whole))
    assert ours > theirs  # W' is formed in each


@pytest.mark.slow
def test_a_model_is_exported_from_a_checkpoint_as_it_is_at_the_end(
    composed: Composed, place: Path
) -> None:
    words = [*DSEE, "seed=5"]
    folder, _ = train(composed, place, *words)
    run = composed(*words_of(place, *words, "run.export=true"))
    worker.work(run, Console(file=io.StringIO()))
    (place_of_export,) = folder.glob("export-step-*")
    ours, theirs = weights_of(place_of_export), weights_of(folder / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_gradients_and_moments_are_of_what_is_trained(composed: Composed, place: Path) -> None:
    from dwt_cli.base.machine import Machine

    machine = Machine.elsewhere(80, composed().train.precision)
    few, all_of_it = (
        state(recipe_of(composed(*words_of(place, *words))).shapes, machine)
        for words in (DSEE, ["optim=adamw"])
    )
    size = num_parameters(open_folder(place / "modernbert", Head.masked))
    assert (all_of_it.gradients, all_of_it.optimizer) == (4 * size, 8 * size)
    assert (few.gradients, few.optimizer) == (4 * TRAINED, 8 * TRAINED)
    assert few.weights == 4 * (size + TRAINED)


def test_a_classifier_is_tuned_by_its_head_and_a_few_numbers(
    composed: Composed, place: Path
) -> None:
    for name, num_texts in (("train", 60), ("dev", 21)):
        labelled.write(place / f"{name}.jsonl", num_texts, seed=num_texts)
    more = ["train.max_steps=null", "train.epochs=2", "eval.every=30", "optim.lr=5e-2"]
    folder, _ = labelled.train(composed, place, *DSEE, *more, student="modernbert")
    student = summary_of(folder)["student"]
    head = 16 * 16 + 16 + 3 * 16 + 3  # a layer with its norm, and three classes
    assert student["tuning"]["trained"] == TRAINED + head
    ours, start = weights_of(folder / "model"), weights_of(place / "modernbert")
    frozen = [
        name for name in start if name in ours and "layers" not in name and "head" not in name
    ]
    assert any("embeddings" in name for name in frozen)
    assert all(torch.equal(ours[name], start[name]) for name in frozen)
    assert labelled.of_saved(folder, place)[0] == pytest.approx(
        student["heldout"]["loss"], rel=1e-4
    )
    assert student["heldout"]["loss"] < student["heldout_at_start"]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_tune_as_one(place: Path, parallel: str) -> None:
    words = words_of(place, "tuning=dsee", "tuning.rank=3", "tuning.num_sparse=5", "seed=6")
    words += ["tuning.prune=0.25", "tuning.heads=1"] if parallel == "ddp" else []
    found = []
    for number, more in enumerate(
        ([], ["launch=torchrun", "launch.gpus=2", "launch.device=cpu", f"parallel={parallel}"])
    ):
        root = place / f"{parallel}-{number}"
        answer = dwt_train(*words, *more, f"run.root={root}", cwd=place)
        assert answer.returncode == 0, answer.stderr
        (folder,) = root.glob("*-seed6-*")
        found.append(folder)
    for ours, theirs in zip(*map(metrics, found), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (summary_of(folder)["student"] for folder in found)
    assert ours["tuning"] == theirs["tuning"]
    assert ours["parameters"] == theirs["parameters"]
