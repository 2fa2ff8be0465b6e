"""Every kind of teacher, through whole runs at a size of seconds."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ElectraConfig, ElectraForMaskedLM

from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.config.run import Run
from dwt_cli.distill.teacher.options import BUDGETS
from dwt_cli.recipe import preflight
from dwt_cli.recipe.plan import flops_in_all
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.teacher import step_at
from dwt_cli.training.snapshots import Snapshots
from tests.miniature import options, write_text
from tests.record import carry_out, metrics

Summary = dict[str, Any]
Summed = Callable[..., Summary]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    write_text(folder / "text")
    return folder


@pytest.fixture(scope="module")
def summed(place: Path, composed: Callable[..., Run]) -> Summed:
    """The summary of a run, and what was printed as ``printed``."""

    def make(*choices: str, words: Sequence[str] = ()) -> Summary:
        typed = [*options(place), "scale.teacher_steps=40", "alpha=normal", *choices]
        run = replace(composed(*(words or typed)), overrides=list(words or typed))
        folder, printed = carry_out(run)
        summary: Summary = json.loads((folder / "summary.json").read_text())
        return {**summary, "folder": folder, "printed": printed}

    return make


@pytest.fixture(scope="module")
def alone(summed: Summed) -> Summary:
    return summed("teacher=none")


@pytest.fixture(scope="module")
def small(summed: Summed, alone: Summary) -> Summary:
    return summed("teacher=small")


def folders(place: Path, kind: str) -> set[Path]:
    return {path.parent for path in (place / "cache" / kind).glob("*/manifest.json")}


def gap(run: Summary, alone: Summary) -> None:
    """The report has the teacher's own held-out loss, and how far it is from the student alone."""
    difference = run["teacher"]["heldout"]["loss"] - alone["student"]["heldout"]["loss"]
    assert run["comparison"]["teacher_minus_stand_alone"] == pytest.approx(difference)
    assert f"{difference:+.3f}" in run["printed"]


@pytest.mark.parametrize("num_steps", [1, 4, 7, 60, 160, 333])
def test_a_budget_is_of_the_step_at_which_the_model_was_kept(
    tmp_path: Path, num_steps: int
) -> None:
    now = 0
    keeping = Snapshots(lambda place: place.write_text(str(now)), tmp_path, BUDGETS[1:])
    for now in range(1, num_steps + 1):
        keeping.stepped(now, now / num_steps, {})
    kept = {float(place.name): int(place.read_text()) for place in tmp_path.iterdir()}
    assert kept == {budget: step_at(budget, num_steps) for budget in BUDGETS[1:-1]}


@pytest.mark.slow
def test_a_stand_alone_student_that_comes_later_is_compared_with(
    summed: Summed, alone: Summary
) -> None:
    words = ("seed=7", "train.log_every=2")
    before = summed("teacher=small", *words)
    assert before["stand_alone"] is None, "that of another seed is none"
    assert "no stand-alone student" in before["printed"]
    later = summed(words=told(before, "what it brought"))
    again = summed("teacher=small", *words)
    gap(again, later)
    assert "no stand-alone student" not in again["printed"]
    assert again["stand_alone"] == later["student"]
    assert "at equal FLOPs, its forward passes counted, it is unknown" in again["printed"]
    longer = summed(words=told(again, "it at equal FLOPs"))
    ours, theirs = again["student"], longer["student"]
    paid = ours["flops"] + ours["teacher_forward_flops"]
    assert theirs["flops"] == pytest.approx(paid, abs=theirs["flops"] / theirs["steps"] / 2)
    whole = summed("teacher=small", *words)
    at_end, at_equal = (
        ours["heldout"]["loss"] - other["student"]["heldout"]["loss"] for other in (later, longer)
    )
    for difference in (at_end, at_equal):
        side = "below" if difference < 0 else "above"
        assert f"ends {abs(difference):.3f} nats {side} the stand-alone" in whole["printed"]
    assert "; one seed: it may be chance" in whole["printed"]
    assert "to know" not in whole["printed"]
    again = summed("teacher=none", *words)
    assert again["stand_alone"] is None, "not with itself"
    assert "teacher forward" not in again["printed"] and "vs alone" not in again["printed"]


def told(run: Summary, what: str) -> list[str]:
    """The words of the command that is to be typed to know something."""
    lines = run["printed"].splitlines()
    (line,) = [line for line in lines if line.startswith(f"to know {what}: ")]
    program, *words = shlex.split(line.partition(": ")[2])
    assert program == "dwt-train"
    return words


def test_one_training_serves_every_budget(
    place: Path, summed: Summed, alone: Summary, small: Summary
) -> None:
    before = folders(place, "teacher")
    half, tenth = summed("teacher.budget=0.5"), summed("teacher.budget=0.1")
    assert folders(place, "teacher") == before
    for run, steps in ((half, 20), (tenth, 4)):
        teacher = run["teacher"]
        assert (teacher["steps"], teacher["tokens"]) == (steps, steps * 8 * 16)
        assert teacher["flops"] == pytest.approx(small["teacher"]["flops"] * steps / 40)
        assert run["cost"]["teacher_pretraining_flops"] == teacher["flops"]
        gap(run, alone)
    losses = [run["teacher"]["heldout"]["loss"] for run in (tenth, half, small)]
    assert losses == sorted(losses, reverse=True)
    assert len({run["folder"] for run in (half, tenth, small)}) == 3


@pytest.mark.parametrize(
    "choices", [["objective=logits"], ["objective=[logits,minilmv2]", "teacher.online=lora"]]
)
def test_what_is_charged_is_what_was_planned(
    place: Path, summed: Summed, composed: Callable[..., Run], choices: list[str]
) -> None:
    """Who shows the inside of a last layer computes all of it, and pays for it while it listens.

    So does a teacher that learns beside the student.
    """
    words = [*choices, "alpha=linear_to_zero", "alpha.until=0.5"]
    cost = summed(*words)["cost"]
    run = composed(*options(place), "scale.teacher_steps=40", *words)
    planned = flops_in_all(recipe_of(run))
    parts = ("student_flops", "teacher_forward_flops", "teacher_pretraining_flops")
    assert sum(cost[part] for part in parts) == pytest.approx(planned)


def test_an_untrained_teacher_is_where_the_trained_one_began(
    place: Path, summed: Summed, alone: Summary, small: Summary
) -> None:
    before = folders(place, "teacher")
    untrained = summed("teacher=untrained")
    assert folders(place, "teacher") == before
    assert untrained["teacher"]["heldout"] == small["teacher"]["heldout_at_start"]
    assert untrained["cost"]["teacher_pretraining_flops"] == 0
    gap(untrained, alone)


@pytest.mark.slow
def test_the_rows_where_it_is_surest_are_the_same_in_any_micro_batch(summed: Summed) -> None:
    """A row counts or not by the teacher's entropy on the held-out text, not on a batch."""
    found = []
    for size in ("null", "2"):
        words = ("select=uncertain", "select.share=0.3", "train.precision=fp32")
        name = f"run.name=of_{size}"  # the size of a micro-batch is no part of a run's identity
        run = summed(*words, f"train.micro_batch_size={size}", name, "run.fresh=true")
        lines = metrics(run["folder"])
        found.append([(x["train/loss"], x["train/selected"]) for x in lines if "train/loss" in x])
    (losses, selected), (theirs, their_selected) = (zip(*each, strict=True) for each in found)
    assert selected == pytest.approx(their_selected) and 0.5 < np.mean(selected) < 0.9
    assert losses == pytest.approx(theirs, rel=1e-3)


def test_a_virtual_teacher_costs_nothing_and_knows_the_labels(
    summed: Summed, alone: Summary
) -> None:
    run = summed("teacher=virtual")
    assert run["teacher"]["heldout"]["loss"] == pytest.approx(-math.log(0.99), rel=1e-4)
    assert run["cost"]["teacher_forward_flops"] == run["teacher"]["parameters"] == 0
    gap(run, alone)
    assert "told the labels" in run["printed"] and "teacher ahead" not in run["printed"]


def test_a_student_that_teaches_itself_has_no_teacher_s_loss(
    summed: Summed, alone: Summary
) -> None:
    own = ["teacher=self", "objective=self_features", "student.num_layers=4"]
    run = summed(*own)
    assert run["teacher"]["heldout"] == {} and run["student"]["num_taught"] == 6
    assert run["cost"]["teacher_forward_flops"] == run["cost"]["teacher_pretraining_flops"] == 0
    assert "the teacher" not in run["printed"].replace("what the teacher brought", "")
    steps = metrics(run["folder"])
    named = [line.keys() for line in steps if "train/loss" in line]
    assert all("train/soft_loss" in each and "train/teacher_loss" not in each for each in named)


@pytest.mark.slow
def test_several_teachers_are_made_once_and_mixed(
    place: Path, summed: Summed, alone: Summary, small: Summary
) -> None:
    before = folders(place, "teacher")
    several = ("teacher=several", "teacher.members=[small,very_weak]")
    run = summed(*several, "teacher.weights=[3,1]")
    assert len(folders(place, "teacher") - before) == 1  # small is there
    facts = run["teacher"]["members"]
    assert list(facts) == ["small", "very_weak"]
    assert facts["small"] == small["teacher"]
    losses = [member["heldout"]["loss"] for member in facts.values()]
    # the mixture's loss is at most the mean of its members' (the logarithm is concave)
    assert run["teacher"]["heldout"]["loss"] <= (3 * losses[0] + losses[1]) / 4 + 1e-6
    assert run["cost"]["teacher_pretraining_flops"] == pytest.approx(
        sum(member["flops"] for member in facts.values())
    )
    assert run["cost"]["teacher_forward_flops"] > small["cost"]["teacher_forward_flops"]
    gap(run, alone)
    by_token = summed(*several, "teacher.weights=[3,1]", "teacher.weighting=token")
    assert by_token["identity"] != run["identity"]


@pytest.mark.slow
def test_a_teacher_of_another_text_reads_it_in_the_students_tokens(
    place: Path, summed: Summed, alone: Summary, small: Summary
) -> None:
    other = write_text(place / "other", num_documents=40)
    for path in other.iterdir():  # the same letters, and hardly a common word
        path.write_text(path.read_text()[::-1])
    corpora, teachers = folders(place, "corpus"), folders(place, "teacher")
    run = summed("data@teacher.data=files", f"teacher.data.path={other}")
    (theirs,), (ours,) = folders(place, "corpus") - corpora, corpora
    assert len(folders(place, "teacher") - teachers) == 1
    words = [(folder / "tokenizer" / "tokenizer.json").read_bytes() for folder in (ours, theirs)]
    assert words[0] == words[1]
    assert run["corpus"]["fingerprint"] == ours.name
    assert run["teacher"]["heldout"]["loss"] > small["teacher"]["heldout"]["loss"]
    gap(run, alone)


def test_a_teacher_has_an_optimiser_of_its_own_or_the_students(
    composed: Callable[..., Run],
) -> None:
    def parts(*words: str) -> tuple[Any, Any]:
        recipe = recipe_of(composed(*words))
        assert recipe.teacher
        return recipe.teacher.parts["optim"], recipe.teacher.identity

    ours, theirs = parts("optim=muon"), parts("optim=adamw", "optim@teacher.optim=muon")
    assert ours == theirs
    assert parts("optim=adamw") != ours
    lower = parts("optim=muon", "optim@teacher.optim=muon", "teacher.optim.hidden_lr=0.01")
    assert lower[0].hidden_lr == 0.01 and lower[1] != ours[1]


@pytest.mark.slow
def test_a_checkpoint_among_several(summed: Summed, alone: Summary) -> None:
    path = f"{alone['folder']}/model"
    run = summed("teacher=several", f"teacher.members=[{path},virtual]")
    assert run["teacher"]["members"][path]["heldout"]["loss"] == pytest.approx(
        alone["student"]["heldout"]["loss"], abs=1e-6
    )
    assert run["cost"]["teacher_pretraining_flops"] == alone["cost"]["student_flops"] > 0
    assert run["teacher"]["members"][path]["tokens"] == alone["student"]["tokens"]


@pytest.mark.slow
def test_a_family_without_anatomy_teaches_by_its_logits(
    place: Path, summed: Summed, composed: Callable[..., Run]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ElectraForMaskedLM(
            ElectraConfig(
                vocab_size=200, embedding_size=12, hidden_size=16, num_hidden_layers=1,
                num_attention_heads=2, intermediate_size=16,
            )
        )  # fmt: skip
    model.save_pretrained(place / "electra")
    corpus = next(iter(folders(place, "corpus")))
    for path in (corpus / "tokenizer").iterdir():
        (place / "electra" / path.name).write_bytes(path.read_bytes())
    words = ["teacher=checkpoint", f"teacher.path={place}/electra"]
    shared = composed(*options(place), *words, "parallel=fsdp", "parallel.shard_teacher=true")
    with pytest.raises(UserError, match=r"shard_teacher=true with teacher.path.*electra"):
        preflight.check(
            recipe_of(shared),
            Machine.of(shared.launch.device, 1, shared.train.precision),
            num_ranks=2,
        )
    run = summed(*words)
    assert run["cost"]["teacher_forward_flops"] > 0
    assert run["cost"]["teacher_pretraining_flops"] is None  # nobody recorded it
    assert "teacher pre-training unknown" in run["printed"]
    assert run["teacher"]["heldout"]["loss"] == pytest.approx(math.log(200), abs=0.5)
    # the tokens are the checkpoint's, so the student alone is to be trained on them too
    assert run["stand_alone"] is None
    words = told(run, "what it brought")
    assert f"data.tokenizer={place}/electra" in words
    alone = summed(words=words)
    again = summed("teacher=checkpoint", f"teacher.path={place}/electra", "alpha.soft=2")
    gap(again, alone)


@pytest.mark.parametrize("teacher", ["none", pytest.param("very_weak", marks=pytest.mark.slow)])
def test_an_existing_model_is_trained_on(alone: Summary, summed: Summed, teacher: str) -> None:
    path = f"student.path={alone['folder']}/model"
    run = summed("student=checkpoint", path, f"teacher={teacher}")
    before, end = run["student"]["heldout_at_start"]["loss"], run["student"]["heldout"]["loss"]
    assert before == pytest.approx(alone["student"]["heldout"]["loss"], abs=1e-6)
    assert end < before
    assert run["folder"] != alone["folder"]
    assert (teacher == "none") == (run["teacher"] is None)
