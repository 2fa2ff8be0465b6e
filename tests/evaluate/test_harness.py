"""Tasks of lm-evaluation-harness, where it is installed, and what is said where it is not."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.evaluate import harness, measures
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Eval, Harness
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Head
from dwt_cli.tasks.options import CausalLM

IS_THERE = find_spec("lm_eval") is not None
TEXTS = ["bark delin.", "mossa tum sive.", "gum rum.", "tum tum delin bark."]
ROWS = [{"good": good, "bad": good[::-1]} for good in TEXTS]
YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[good, bad]}}}}"
metric_list: [{{metric: acc}}]
"""
GROUP = "group: both\ntask: [mine, yours]\naggregate_metric_list: [{metric: acc}]\n"

needs_harness = pytest.mark.skipif(not IS_THERE, reason="lm-evaluation-harness is not installed")


@pytest.fixture
def tested(tiny: Callable[..., Architecture]) -> EvaluatedModel:
    tokenizer = train_tokenizer(TEXTS, 270, 24)
    model = make_model(tiny("gpt2", vocab_size=len(tokenizer)), 0, "student")
    return EvaluatedModel(model, tokenizer, CausalLM(), "tiny", torch.device("cpu"), torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("mine", "yours"):
        (tmp_path / f"{name}.yaml").write_text(YAML.format(name=name, data=data))
    (tmp_path / "lost.yaml").write_text(YAML.format(name="lost", data=tmp_path / "no.jsonl"))
    (tmp_path / "both.yaml").write_text(GROUP)
    return tmp_path


def log_p(tested: EvaluatedModel, text: str) -> float:
    tokenizer = tested.tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer.encode(" " + text)]
    with torch.no_grad():
        log_p_LV = tested.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(log_p_LV[place, token].item() for place, token in enumerate(ids[1:]))


@needs_harness
def test_a_task_of_ones_own_is_scored_and_those_of_a_group_are_details(
    tested: EvaluatedModel, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = Harness(["both"], str(folder), limit=3)
    harness.check(options)
    found = {score.task: score for score in harness.scores(tested, options)}
    hits = [log_p(tested, row["good"]) > log_p(tested, row["bad"]) for row in ROWS[:3]]
    assert {task: score.value for task, score in found.items()} == dict.fromkeys(
        ("both", "mine", "yours"), pytest.approx(sum(hits) / 3)
    )
    assert [score.metric for score in found.values()] == ["acc"] * 3
    assert [found[task].is_detail for task in ("both", "mine", "yours")] == [False, True, True]
    assert [found[task].num_examples for task in ("both", "mine")] == [6, 3]
    assert found["mine"].stderr is not None
    assert capfd.readouterr() == ("", "")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no such task": ({"tasks": ["mime"]}, r"tasks=\[mime\]: .* did you mean mine\?"),
    "no tasks": ({"tasks": []}, r"tasks=\[\]: name at least one"),
    "no such folder": ({"include_path": "nowhere"}, r"include_path=nowhere: there is no such"),
    "no data": ({"tasks": ["lost"]}, r"tasks=\[lost\]: FileNotFoundError, .*no.jsonl"),
}


@needs_harness
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    changes, line = MISTAKES[mistake]
    options = Harness(**{"tasks": ["mine"], "include_path": str(folder)} | changes)
    with pytest.raises(UserError, match=line) as caught:
        measures.check(Eval(measures=["harness"], harness=options), Head.causal)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(IS_THERE, reason="lm-evaluation-harness is installed")
def test_without_the_package_the_command_that_installs_it_is_said() -> None:
    with pytest.raises(UserError, match=r"not installed; pip install 'dwt-cli\[harness\]'"):
        measures.check(Eval(measures=["harness"], harness=Harness(["mine"])), Head.causal)


def test_it_is_not_for_masked_models() -> None:
    with pytest.raises(UserError, match=r"eval.measures=\[harness\]: a masked model.*task=clm"):
        measures.check(Eval(measures=["harness"], harness=Harness(["mine"])), Head.masked)
