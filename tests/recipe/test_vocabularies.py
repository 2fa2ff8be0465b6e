"""A student with a tokenizer of its own, from its command to what it leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.models.making import make_model
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.track.summary import Summary
from tests.conftest import tiny_architecture
from tests.miniature import options, write_text
from tests.record import Done, carry_out, metrics
from tests.vocabularies import metaspace, pieces

Composed = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a masked teacher that reads it in word pieces."""
    folder = tmp_path_factory.mktemp("vocabularies")
    write_text(folder / "text", num_documents=30)
    sizes = {"vocab_size": len(pieces()), "mlp_width": 16, "max_length": 32}
    make_model(tiny_architecture("modernbert", 1, **sizes), 0, "teacher").save_pretrained(
        folder / "teacher"
    )
    pieces().save_pretrained(folder / "teacher")
    return folder


def train(composed: Composed, place: Path, *words: str) -> Done:
    asked = ["teacher=checkpoint", f"teacher.path={place}/teacher", "scale.vocab_size=300"]
    run = composed(*options(place), *asked, *words)
    return carry_out(run)


@pytest.mark.slow
def test_a_teacher_s_tokens_are_what_a_student_s_begin_as(composed: Composed, place: Path) -> None:
    words = ["data.tokenizer=own", "task.tokenizer=bpe", "remap=stack", "objective=hidden"]
    folder, printed = train(composed, place, *words, "remap.vocabulary=transfer")
    account = json.loads((folder / "remap.json").read_text())
    assert sum(account["tokens"].values()) == 300
    assert account["tokens"]["copied"] > 20 and account["tokens"]["special"] == 5
    assert f"{account['tokens']['copied']} copied" in printed
    assert "warning" not in printed
    content = json.loads((folder / "summary.json").read_text())
    summary = Summary.from_json(content)
    assert summary.teacher is not None and not summary.teacher.heldout
    assert account["losses"].keys() == {"random", "remapped"}
    saved = AutoTokenizer.from_pretrained(folder / "model")
    assert saved.decode(saved("Belin, bark", add_special_tokens=False).input_ids) == "Belin, bark"
    assert "reads other tokens" in (folder / "model" / "README.md").read_text()
    assert summary.student.num_taught == 6 and summary.student.teacher_forward_flops
    assert summary.teacher.aligned is not None and 0.3 < summary.teacher.aligned < 1
    assert f"{summary.teacher.aligned:.1%} of the student's end where one of its own" in printed


@pytest.mark.slow
def test_such_a_teacher_reads_the_beginning_of_a_longer_block(
    composed: Composed, place: Path
) -> None:
    words = ["data.tokenizer=own", "task.tokenizer=bpe", "objective=hidden", "teacher.window=6"]
    folder, printed = train(composed, place, *words)
    summary = Summary.from_json(json.loads((folder / "summary.json").read_text()))
    assert summary.teacher and summary.teacher.windows is None and summary.teacher.beyond
    assert summary.teacher.read is not None and summary.teacher.read <= 6 / 16
    assert 0.3 < summary.teacher.beyond < 1 - (summary.teacher.aligned or 0)
    assert f"; {summary.teacher.beyond:.1%} are after what it reads" in printed
    assert "of which it has no windows" in printed
    run = composed(*options(place), "teacher=checkpoint", f"teacher.path={place}/teacher", *words)
    shapes = recipe_of(run).shapes
    assert shapes.windows["teacher"].length == 6 and shapes.num_windows("teacher") == 1
    run.overrides.append("teacher.overlap=0.6")
    assert any(line.startswith("teacher.overlap has no effect with data.tok") for line in
               check.warnings(run))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["alm", "uld", "[alm,let]"])
@pytest.mark.parametrize("remap", ["random", "stack"])
def test_a_decoder_listens_to_one_with_other_tokens(
    composed: Composed, place: Path, objective: str, remap: str
) -> None:
    """With rows of its own, or with those that its tokens are made of; split in two or not."""
    sizes = {"vocab_size": len(metaspace()), "mlp_width": 16, "max_length": 32}
    make_model(tiny_architecture("qwen3", 1, **sizes), 0, "teacher").save_pretrained(
        place / "decoder"
    )
    metaspace().save_pretrained(place / "decoder")
    words = ["task=clm", f"teacher.path={place}/decoder", "data.tokenizer=own", f"remap={remap}"]
    words += ["remap.vocabulary=transfer"] * (remap == "stack")
    losses = []
    for size in ("null", "4"):
        folder, _ = train(
            composed, place, *words, f"objective={objective}", f"train.micro_batch_size={size}",
            f"run.name=in-{size}", "run.fresh=true", "train.precision=fp32",
        )  # fmt: skip
        summary = Summary.from_json(json.loads((folder / "summary.json").read_text()))
        losses.append(summary.student.loss)
        assert summary.student.num_taught == 6
        soft = [line["train/soft_loss"] for line in metrics(folder) if "train/soft_loss" in line]
        assert len(soft) == 6 and all(0 < each < 100 for each in soft)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_likelihoods_of_text_serve_a_teacher_with_the_same_tokens(
    composed: Composed, place: Path
) -> None:
    words = ["task=clm", "teacher=untrained", "objective=alm", "scale.vocab_size=300"]
    run = composed(*options(place), *words)
    assert "other tokens" not in carry_out(run).printed
