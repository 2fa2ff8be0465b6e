"""A student with a tokenizer of its own, from its command to what it leaves behind."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.models.making import make_model
from dwt_cli.recipe import worker
from dwt_cli.track.summary import Summary
from tests.conftest import tiny_architecture
from tests.miniature import options, write_text
from tests.vocabularies import pieces

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


def train(composed: Composed, place: Path, *words: str) -> tuple[Path, str]:
    """Return the folder of a miniature run with the teacher, and what was printed."""
    asked = ["teacher=checkpoint", f"teacher.path={place}/teacher", "scale.vocab_size=300"]
    run = composed(*options(place), *asked, *words)
    check.check(run)
    printed = io.StringIO()
    worker.work(run, Console(file=printed, width=300))
    (line,) = [line for line in printed.getvalue().splitlines() if line.startswith("record: ")]
    return Path(line.removeprefix("record: ")), printed.getvalue()


def test_a_teacher_s_tokens_are_what_a_student_s_begin_as(composed: Composed, place: Path) -> None:
    words = ["data.tokenizer=own", "task.tokenizer=bpe", "remap=stack", "alpha=off"]
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
    assert torch.isfinite(torch.tensor(summary.student.loss))
