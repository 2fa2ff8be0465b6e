"""A signal that a server wrote: from the prompts that it is sent to the student that hears it."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from dwt_cli.base.errors import UserError
from dwt_cli.config import check, signals
from dwt_cli.config.run import Run
from dwt_cli.distill.alpha import Constant, Linear
from dwt_cli.distill.objective.divergences import ForwardKL, TopK
from dwt_cli.distill.signal.options import Imported, Online, Threshold
from dwt_cli.recipe import worker
from dwt_cli.recipe.imported import check_decoded
from dwt_cli.tasks.options import CausalLM, MaskedLM
from dwt_cli.track.summary import Summary
from tests.miniature import options, write_text
from tests.record import folder_of, metrics
from tests.vocabularies import byte_level

Composed = Callable[..., Run]
SERVED = ["task=clm", "scale.vocab_size=300", "scale.num_layers=1", "objective=top_k",
          "objective.top_k.k=6", "signal.num_entries=6", "alpha=normal", "scale.max_steps=2",
          "eval.num_blocks=2", "train.precision=fp32"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and the model that a server has, with the text's tokenizer."""
    folder = tmp_path_factory.mktemp("imported")
    write_text(folder / "text", 12)
    return folder


def done(composed: Composed, place: Path, *words: str) -> str:
    """Return what a run prints."""
    run = composed(*options(place), *SERVED, *words)
    check.check(run)
    printed = io.StringIO()
    worker.work(run, Console(file=printed, width=400))
    return printed.getvalue()


def line_of(printed: str, begin: str) -> str:
    return next(line for line in printed.splitlines() if begin in line)


def answers(prompts: Path, model: Any, num_entries: int) -> str:
    """What vLLM would say of the prompts."""
    lines = []
    for line in prompts.read_text().splitlines():
        ids = json.loads(line)["prompt"]
        with torch.no_grad():
            log_p_LV = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        positions: list[Any] = [None]
        for of_place, label in zip(log_p_LV, ids[1:], strict=False):
            chosen = dict.fromkeys([*of_place.topk(num_entries).indices.tolist(), label])
            positions.append({str(each): {"logprob": float(of_place[each])} for each in chosen})
        lines.append(json.dumps({"prompt_token_ids": ids, "prompt_logprobs": positions}))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def served(composed: Composed, place: Path) -> list[str]:
    """The words of a run that hears what a server said; its model is the student of another."""
    printed = done(composed, place, "teacher=none", "signal=threshold")
    folder = folder_of(printed)
    asked = done(composed, place, "signal=imported", "run.prompts=true")
    prompts = Path(line_of(asked, " prompts, ").split()[-1])
    (words,) = (each for each in asked.split() if each.startswith("signal.tokenizer="))
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    (place / "rows.jsonl").write_text(answers(prompts, model, 6))
    assert len([*place.glob("runs/*/")]) == 1, "nothing was trained"
    return ["signal=imported", f"signal.path={place}/rows.jsonl", words, f"teacher {folder}"]


def test_the_rows_of_a_server_are_heard(composed: Composed, place: Path, served: list[str]) -> None:
    printed = done(composed, place, *served[:-1])
    folder = folder_of(printed)
    summary = Summary.from_json(json.loads((folder / "summary.json").read_text()))
    assert summary.student.num_taught == 2 and summary.student.signal["biased"]
    assert summary.cost["teacher_forward_flops"] is None
    assert summary.cost["teacher_pretraining_flops"] is None
    assert "teacher forward unknown" in printed and "rows are biased" in printed
    nothing = done(composed, place, *served[:-1], "run.prompts=true")
    assert line_of(nothing, "prompts, ").startswith("0 prompts")


@pytest.mark.slow
def test_it_is_as_if_the_model_were_here(
    composed: Composed, place: Path, served: list[str]
) -> None:
    heard = []
    path = served[-1].removeprefix("teacher ")
    here = ["teacher=checkpoint", f"teacher.path={path}", "signal=top_k"]
    for words in (served[:-1], here):
        printed = done(composed, place, *words)
        folder = folder_of(printed)
        heard.append([each for each in metrics(folder) if "train/soft_loss" in each])
    for name in ("train/soft_loss", "train/hard_loss", "train/teacher_loss"):
        ours, theirs = ([each[name] for each in lines] for lines in heard)
        assert ours == pytest.approx(theirs, rel=1e-3) and len(ours) == 2


def test_blocks_without_rows_are_counted(
    composed: Composed, place: Path, served: list[str]
) -> None:
    some = (place / "rows.jsonl").read_text().splitlines()
    (place / "some.jsonl").write_text("\n".join(some[3:]))
    words = ["signal=imported", f"signal.path={place}/some.jsonl", served[2]]
    with pytest.raises(UserError, match=rf"3 of {len(some)} blocks have no rows.*run.prompts=true"):
        done(composed, place, *words)
    row = json.loads(some[0])
    row["prompt_logprobs"][1][str(row["prompt_token_ids"][1])]["decoded_token"] = "x!"
    (place / "others.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"others.jsonl: id \d+ is 'x!' there"):
        done(composed, place, words[0], f"signal.path={place}/others.jsonl", words[2])
    with pytest.raises(UserError, match=r"signal.tokenizer=0123: the text is read with another"):
        done(composed, place, *words[:2], "signal.tokenizer=0123")
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file"):
        done(composed, place, "signal=imported", "signal.path=nowhere.jsonl", served[2])


def test_tokens_that_stand_for_another_text_are_refused() -> None:
    """Spaces before a word and parts of a character are not the same with every server."""
    tokenizer = byte_level()
    word, half = (tokenizer(text).input_ids for text in (" bark", "\U0001f600"))
    assert len(half) > 1
    alike = [(number, tokenizer.decode([number]).strip()) for number in word]
    alike += [(number, tokenizer.convert_ids_to_tokens(number)) for number in word]
    check_decoded([*alike, (half[0], "\ufffd"), (half[-1], "")], tokenizer, "rows.jsonl")
    with pytest.raises(UserError, match=rf"signal.path=rows.jsonl: id {word[0]} is 'x!' there, .*"):
        check_decoded([(word[0], "x!")], tokenizer, "rows.jsonl")


ROWS = Imported(path="rows.jsonl", tokenizer="0123")
REFUSED: dict[str, dict[str, Any]] = {
    "give signal.path=FILES": {"signal": Imported()},
    "set signal.tokenizer": {"signal": Imported(path="rows.jsonl")},
    "leave teacher=it out": {"teacher": "small"},
    "choose signal=imported": {"signal": Online()},
    "choose signal=imported alone": {"signal": Threshold()},
    "set task=clm": {"task": MaskedLM()},
    "separate_documents=false": {"task": CausalLM(separate_documents=True)},
    "choose objective=top_k|choose that": {"objective": {"logits": ForwardKL()}},
    "temperature 1": {"objective": {"top_k": TopK(temperature=2.0)}},
    "0.20; choose alpha=normal": {"alpha": Constant(soft=4.0)},
    "0.25; choose alpha=normal": {"objective": {"top_k": TopK(weight=3.0)}},
    "0.28; choose alpha=normal": {"alpha": Linear(soft=4.0, soft_end=1.5)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_be_together_with_is_one_line(composed: Composed, what: str) -> None:
    run = composed("task=clm", "signal=imported", "objective=top_k", "alpha=normal")
    run = replace(run, signal=ROWS, choices={"teacher": "it", "signal": "rows", "alpha": "this"})
    check.check(run)
    changes = dict(REFUSED[what])
    if "teacher" in changes:
        changes["teacher"] = composed("task=clm").teacher
    lines = [line for line in signals.problems(replace(run, **changes)) if re.search(what, line)]
    assert len(lines) == 1 and "\n" not in lines[0]
