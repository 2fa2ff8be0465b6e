"""What a text is found by, and how what version 0.2 has made is found."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.config.run import SCHEMAS, Run
from dwt_cli.data.options import Data
from dwt_cli.data.tokenizer import train_tokenizer
from dwt_cli.recipe import worker
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import recorded_as
from dwt_cli.recipe.student import StudentStage
from tests.miniature import options, write_text

Recipes = Callable[..., StudentStage]


@pytest.fixture
def recipe(tmp_path: Path, composed: Callable[..., Run]) -> Recipes:
    """The recipe of a miniature run with these choices."""
    if not (tmp_path / "text").is_dir():
        write_text(tmp_path / "text")

    def make(*choices: str) -> StudentStage:
        return recipe_of(composed(*options(tmp_path), *choices))

    return make


def checkpoint(folder: Path, words: str, weights: bytes) -> Path:
    """A folder of a model, of which only tokenizer and weights matter here."""
    train_tokenizer([words] * 9, 100, 16).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "weights": len(weights)}))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.slow
def test_a_text_is_its_content_wherever_it_lies(tmp_path: Path, recipe: Recipes) -> None:
    same = write_text(tmp_path / "moved" / "elsewhere")
    other = write_text(tmp_path / "other", num_documents=50)
    text = recipe().corpus.identity
    assert recipe(f"data.path={same}", "data.text_column=body").corpus.identity == text
    assert recipe(f"data.path={other}").corpus.identity != text
    assert recipe("data.heldout_fraction=0.1").corpus.identity != text
    assert recipe("data.max_gb=1").corpus.identity != text
    assert recipe("scale.vocab_size=150").corpus.identity != text


def test_each_setting_of_the_text_has_its_place_in_the_identity() -> None:
    of_its_own = {f.name for f in dataclasses.fields(Data)}
    assert of_its_own == {
        "block_length", "vocab_size", "tokenizer", "heldout_fraction", "max_heldout_blocks",
        "max_gb", "tokenizer_kind",
    }  # fmt: skip
    # the rest is told by `provenance` of the source
    every = {f.name for node in SCHEMAS["data"].values() for f in dataclasses.fields(node)}
    assert every - of_its_own == {
        "packages", "path", "text_column", "parts", "every_nth_sentence", "max_sentences",
    }  # fmt: skip


def test_models_with_one_tokenizer_share_a_text(tmp_path: Path, recipe: Recipes) -> None:
    def text(name: str, words: str, weights: bytes) -> tuple[str, str]:
        path = checkpoint(tmp_path / name, words, weights)
        found = recipe("teacher=checkpoint", f"teacher.path={path}")
        return found.corpus.identity, found.corpus.formerly

    one, other = text("one", "some words", b"weights"), text("two", "some words", b"other weights")
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert recipe(f"data.tokenizer={tmp_path}/one").corpus.identity == one[0]
    assert text("three", "and others", b"weights")[0] != one[0]
    assert recipe().corpus.identity != one[0]


def test_what_makes_no_ids_is_not_part_of_a_tokenizer(tmp_path: Path, recipe: Recipes) -> None:
    path = checkpoint(tmp_path / "model", "some words", b"weights")

    def text() -> str:
        return recipe(f"data.tokenizer={path}").corpus.identity

    before = text()
    config = json.loads((path / "tokenizer_config.json").read_text())
    for setting, value, counts in [
        ("model_max_length", 99, False),
        ("is_local", True, False),
        ("mask_token", "[UNK]", True),
    ]:
        (path / "tokenizer_config.json").write_text(json.dumps(config | {setting: value}))
        assert (text() != before) == counts


@pytest.mark.slow
def test_held_out_masks_have_a_ratio_of_their_own(recipe: Recipes) -> None:
    def heldout_task(*choices: str) -> Any:
        return recipe(*choices).shapes.conditions.heldout_task

    usual, other = recipe(), recipe("task.mask_ratio=0.3")
    assert heldout_task() == heldout_task("task.mask_ratio=0.3", "task.keep_ratio=0.5")
    assert usual.corpus.identity == other.corpus.identity
    assert usual.identity != other.identity
    assert other.formerly is None
    again = recipe("task.mask_ratio=0.3", "eval.mask_ratio=0.3")
    assert again.formerly not in (None, usual.formerly)
    assert heldout_task("eval.mask_ratio=0.3") == heldout_task(
        "task.mask_ratio=0.3", "eval.mask_ratio=0.3"
    )


def as_before(recipe: StudentStage, folder: Path) -> None:
    """Let a record, its checkpoints and the cache have the names of version 0.2."""
    for kind, stage in (("corpus", recipe.corpus), ("teacher", recipe.teacher)):
        assert stage and stage.formerly
        (folder / "cache" / kind / stage.identity).rename(folder / "cache" / kind / stage.formerly)
    (run,) = (folder / "runs").glob(f"*-{recipe.identity}")
    before = str(recipe.formerly)
    for file in (run / "summary.json", *run.glob("checkpoints/*/state.json")):
        file.write_text(file.read_text().replace(recipe.identity, before))
    for place in run.glob("checkpoints/step-*"):
        (place / atomic.MANIFEST).unlink()
        atomic.seal(place)
    run.rename(run.with_name(run.name.replace(recipe.identity, before)))


@pytest.mark.slow
def test_what_version_0_2_has_made_is_found(
    tmp_path: Path, composed: Callable[..., Run], recipe: Recipes
) -> None:
    words = [*options(tmp_path), "train.checkpoint_every=3", "scale.log_every=1"]
    run, found = composed(*words), recipe("train.checkpoint_every=3", "scale.log_every=1")

    def carry_out() -> str:
        printed = io.StringIO()
        worker.work(run, Console(file=printed, width=200))
        return printed.getvalue()

    carry_out()
    as_before(found, tmp_path)
    root, cache = tmp_path / "runs", Cache(str(tmp_path / "cache"), print)
    former = str(found.formerly)
    assert recorded_as(root, found) == former
    assert found.corpus.is_kept(cache)
    assert found.teacher and found.teacher.is_kept(cache)
    assert "this run is finished" in carry_out()
    (folder,) = root.glob("*-seed0-*")
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "summary.json").unlink()
    atomic.write_json(folder / "status.json", {"state": "interrupted"})
    assert "this run is finished" not in carry_out()  # it goes on, from the last step
    assert list(root.glob("*-seed0-*")) == [folder]
    assert json.loads((folder / "summary.json").read_text())["identity"] == former
    assert (folder / "metrics.jsonl").read_text() == lines
    assert len(list((tmp_path / "cache" / "teacher").glob("*/manifest.json"))) == 1
    assert len(list((tmp_path / "cache" / "corpus").glob("*/manifest.json"))) == 1
