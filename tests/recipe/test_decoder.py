"""``task=clm`` from its command to what it leaves behind."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from dwt_cli.base.errors import UserError
from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.data.pack import Blocks
from dwt_cli.recipe import worker
from tests.miniature import options, write_text

Composed = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    write_text(folder / "text", num_documents=30)
    return folder


def train(composed: Composed, place: Path, *words: str) -> tuple[Path, str]:
    """Return the folder of a miniature run, and what was printed."""
    run = composed(*options(place), "task=clm", "scale.vocab_size=300", *words)
    check.check(run)
    printed = io.StringIO()
    worker.work(run, Console(file=printed, width=200))
    (line,) = [line for line in printed.getvalue().splitlines() if line.startswith("record: ")]
    return Path(line.removeprefix("record: ")), printed.getvalue()


def test_a_student_of_a_weak_teacher_can_be_asked_to_write(composed: Composed, place: Path) -> None:
    folder, printed = train(composed, place)
    summary = json.loads((folder / "summary.json").read_text())
    heldout = summary["student"]["heldout"]
    assert 0 < heldout["bits_per_byte"] < heldout["loss"]
    assert summary["student"]["tokens"] == 6 * 8 * 16, "inputs"
    assert "bits per byte" in printed
    assert f"sample: {' '.join(summary['samples'][0].split())}" in printed
    card = (folder / "model" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "cross-entropy per token" in card
    assert "max_new_tokens" in card
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.model_type == "qwen3"
    ids_BL = tokenizer("bark belin", return_tensors="pt").input_ids
    written = model.generate(ids_BL, max_new_tokens=3, do_sample=False)
    assert torch.equal(written[:, : ids_BL.shape[1]], ids_BL)
    # the loss on record is that of the model which was saved, by a plain call
    (text,) = (place / "cache").glob("**/heldout")
    blocks = Blocks(text)
    with torch.no_grad():  # all blocks have equally many targets
        ids_BL = torch.from_numpy(blocks[np.arange(len(blocks))])
        plain = model(ids_BL, labels=ids_BL).loss.item()
    assert heldout["loss"] == pytest.approx(plain, rel=1e-5)


REFUSED = [
    ("a masked family", ["scale.family=bert"], r"student.family=bert.*qwen3, llama, gpt2"),
    ("a scale of masked models", ["scale=paper"], r"student.family=bert.*set scale.family"),
    ("groups that do not divide", ["student.num_kv_heads=4"], r"num_kv_heads=4 does not divide"),
    (
        "groups where there are none",
        ["scale.family=gpt2", "student.num_kv_heads=1"],
        r"a gpt2 has keys and values for each head",
    ),
]


@pytest.mark.parametrize(("words", "line"), [each[1:] for each in REFUSED])
def test_what_does_not_fit_is_one_line(
    composed: Composed, place: Path, words: list[str], line: str
) -> None:
    run = composed(*options(place), "task=clm", "scale.vocab_size=300", *words)
    with pytest.raises(UserError, match=line) as caught:
        check.check(run)
    assert "\n" not in str(caught.value)
