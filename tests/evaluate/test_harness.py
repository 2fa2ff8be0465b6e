"""Tasks of lm-evaluation-harness, where it is installed, and what is said where it is not.

And its answers against ours, item by item.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.evaluate import blimp, harness, measures, zero_shot
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Eval, Harness
from dwt_cli.evaluate.sentences import encode
from dwt_cli.evaluate.zero_shot import log_likelihoods, read
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Head
from dwt_cli.tasks.likelihoods import continuations
from dwt_cli.tasks.options import CausalLM
from tests.evaluate.test_zero_shot import SETS, a_model, write

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


def theirs(model: Any, task: str, file: Path) -> Any:
    """Return what a task of the harness's, by its file there, makes of the rows of a file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = Path(lm_eval.__file__).parent / "tasks" / task
    (file.parent / "tasks").mkdir(exist_ok=True)
    (file.parent / "tasks" / "it.yaml").write_text(
        f"include: {own}\ntask: it\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {file}}}\nnum_fewshot: 0\n"
        "training_split: null\nvalidation_split: train\ntest_split: null\n"
    )
    tasks = TaskManager(include_path=file.parent / "tasks", include_defaults=False)
    return lm_eval.evaluate(model, tasks.load(["it"]), bootstrap_iters=0)


def as_on_the_hub(row: dict[str, Any]) -> dict[str, Any]:
    asked = row["question"]
    choices = {key: [choice[key] for choice in asked["choices"]] for key in ("text", "label")}
    return {"question": asked["stem"], "choices": choices, "answerKey": row["answerKey"]}


@needs_harness
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_every_item_has_the_same_answer(
    tiny: Callable[..., Architecture], tmp_path: Path, family: str, adds_bos: bool
) -> None:
    from lm_eval.models.huggingface import HFLM

    tested = a_model(tiny, family, adds_bos)
    model = HFLM(pretrained=tested.model.eval(), tokenizer=tested.tokenizer, batch_size=3)
    known = {
        "lambada": "lambada/lambada_openai.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "arc": "arc/arc_easy.yaml",
    }
    for name, rows in SETS.items():
        options = write(tmp_path, name, rows)
        on_hub = [as_on_the_hub(row) for row in rows] if name == "arc" else rows
        file = Path(write(tmp_path, f"{name}-hub", on_hub).path or "")
        found = theirs(model, known[name], file)
        pairs = [
            (item.context, f" {each}") for item in read(name, options) for each in item.choices
        ]
        asked = [x for item in found["samples"]["it"] for x in item["arguments"]]
        assert [(x[0].rstrip(), x[1]) for x in asked] == [(x.rstrip(), y) for x, y in pairs]
        answers = [x for item in found["samples"]["it"] for (x,) in item["resps"]]
        log_p, is_greedy = log_likelihoods(tested, pairs)
        assert log_p == pytest.approx([each for each, _ in answers], abs=1e-4)
        assert is_greedy.tolist() == [greedy for _, greedy in answers]
        for score in zero_shot.scores(tested, name, options):
            value = found["results"]["it"][f"{score.metric},none"]
            assert score.value == pytest.approx(value, rel=1e-4)
    pairs = [{"sentence_good": row["good"], "sentence_bad": row["bad"]} for row in ROWS]
    found = theirs(
        model, "blimp/adjunct_island.yaml", Path(write(tmp_path, "pairs", pairs).path or "")
    )
    sentences, _ = encode(tested, [text for row in pairs for text in row.values()])
    targets = tested.task.targets(tested.tokenizer)
    log_p = blimp.log_likelihoods(tested.language_model, sentences, targets, tested.device)
    answers = [x for item in found["samples"]["it"] for (x,) in item["resps"]]
    assert log_p == pytest.approx([each for each, _ in answers], abs=1e-4)


@needs_harness
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_rolling_text_has_the_same_likelihood(
    tiny: Callable[..., Architecture], family: str
) -> None:
    """Windows of the model's length: after the mark, after one token, the last after more."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tested = a_model(tiny, family, False, max_length=16)
    text = " ".join(row["text"] for row in SETS["lambada"])
    model = HFLM(pretrained=tested.model.eval(), tokenizer=tested.tokenizer)
    (expected,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ids = [0, *tested.tokenizer(text).input_ids]
    assert len(ids) > 33 and len(ids) % 16 != 1
    windows = []
    for start in range(0, len(ids) - 1, 16):
        window = ids[max(0, min(start, len(ids) - 17)) : start + 17]
        num_given = len(window) - len(ids[start + 1 : start + 17])
        windows.append((tuple(window), num_given))
    log_p, _ = continuations(tested.language_model, windows, tested.device)
    assert log_p.sum() == pytest.approx(expected, abs=1e-4)
