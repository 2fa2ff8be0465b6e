"""LAMBADA, HellaSwag and ARC on miniatures, against plain calls of the model with every step shown.

`tests/evaluate/test_harness.py` compares the same files with lm-evaluation-harness.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import MARK, train_tokenizer
from dwt_cli.evaluate import measures
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Eval, LocalFile
from dwt_cli.evaluate.zero_shot import encode, log_likelihoods, scores
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Head
from dwt_cli.tasks.options import CausalLM
from tests.evaluate.test_blimp import sharp

Tiny = Callable[..., Architecture]
Row = dict[str, Any]

LAMBADA = [
    {"text": "The dog saw the cat. Then the cat saw the dog"},
    {"text": "She had a red hat and he had a red hat"},
    {"text": "Alone"},
]
HELLASWAG = [
    {
        "activity_label": "Cutting the grass",
        "ctx_a": "A man is outside.  He has a hat.",
        "ctx_b": "the man",
        "endings": ["cuts the grass.", "is a hat [step] and sings.", "sees.", "eats the dog then."],
        "label": 0,
    },
    {
        "activity_label": "Cooking",
        "ctx_a": "How to cook [title] Take a pan.",
        "ctx_b": "",
        "endings": ["Heat it.", "Then the cat saw it.", "Red.", "Sing to the pan [title] Done."],
        "label": "3",
    },
]
ARC = [
    {
        "id": "a",
        "question": {
            "stem": "Which animal barks?",
            "choices": [
                {"text": "the red hat", "label": "A"},
                {"text": "a dog", "label": "B"},
                {"text": "grass", "label": "C"},
            ],
        },
        "answerKey": "B",
    },
    {
        "id": "b",
        "question": {
            "stem": "What is red?",
            "choices": [{"text": text, "label": str(n)} for n, text in enumerate(("hat", "cat"))],
        },
        "answerKey": "0",
    },
]
SETS: dict[str, list[Row]] = {"lambada": LAMBADA, "hellaswag": HELLASWAG, "arc": ARC}


def a_tokenizer(adds_bos: bool) -> PreTrainedTokenizerBase:
    texts = [json.dumps(rows) for rows in SETS.values()]
    tokenizer = train_tokenizer(texts, 330, 200)
    if adds_bos:
        post = TemplateProcessing(single=f"{MARK} $A", special_tokens=[(MARK, 0)])
        tokenizer.backend_tokenizer.post_processor = post
    return tokenizer


def a_model(tiny: Tiny, family: str, adds_bos: bool, max_length: int = 200) -> EvaluatedModel:
    tokenizer = a_tokenizer(adds_bos)
    made = make_model(tiny(family, vocab_size=len(tokenizer), max_length=max_length), 0, "student")
    return EvaluatedModel(
        sharp(made), tokenizer, CausalLM(), "tiny", torch.device("cpu"), torch.float32
    )


def write(folder: Path, name: str, rows: list[Row]) -> LocalFile:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LocalFile(str(file))


@torch.no_grad()
def plain(tested: EvaluatedModel, context: str, continuation: str) -> tuple[float, bool]:
    """One text by itself, one token after the other."""
    tokenizer = tested.tokenizer
    if context:
        ids = tokenizer(context + continuation).input_ids
        num_given = len(tokenizer(context).input_ids)
    else:
        ids = [0, *tokenizer(continuation, add_special_tokens=False).input_ids]
        num_given = 1
    total, greedy = 0.0, True
    for place in range(num_given, len(ids)):
        logits_V = tested.model(torch.tensor([ids[:place]])).logits[0, -1].double()
        total += logits_V.log_softmax(-1)[ids[place]].item()
        greedy &= logits_V.argmax().item() == ids[place]
    return total, greedy


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_metrics_against_plain_calls(
    tiny: Tiny, tmp_path: Path, family: str, adds_bos: bool
) -> None:
    tested = a_model(tiny, family, adds_bos)
    found = {
        (name, score.metric): score
        for name, rows in SETS.items()
        for score in scores(tested, name, write(tmp_path, name, rows))
    }
    words = [
        plain(tested, "The dog saw the cat. Then the cat saw the", " dog"),
        plain(tested, "She had a red hat and he had a red", " hat"),
        plain(tested, "", " Alone"),
    ]
    nats = -sum(log_p for log_p, _ in words) / 3
    assert math.log(found["lambada", "perplexity"].value) == pytest.approx(nats, rel=1e-5)
    assert found["lambada", "acc"].value == sum(greedy for _, greedy in words) / 3
    asked = {
        "hellaswag": [
            ("Cutting the grass: A man is outside. He has a hat. The man", [
                "cuts the grass.", "is a hat and sings.", "sees.", "eats the dog then."], 0),
            ("Cooking: How to cook. Take a pan. ", [
                "Heat it.", "Then the cat saw it.", "Red.", "Sing to the pan. Done."], 3),
        ],
        "arc": [
            ("Question: Which animal barks?\nAnswer:", ["the red hat", "a dog", "grass"], 1),
            ("Question: What is red?\nAnswer:", ["hat", "cat"], 0),
        ],
    }  # fmt: skip
    for name, items in asked.items():
        by_sum, by_character = [], []
        for context, choices, gold in items:
            spaces = " " * (len(context) - len(context.rstrip()))
            log_p = [plain(tested, context.rstrip(), f"{spaces} {each}")[0] for each in choices]
            by_sum.append(int(np.argmax(log_p)) == gold)
            lengths = map(len, choices)
            ratios = [each / length for each, length in zip(log_p, lengths, strict=True)]
            by_character.append(int(np.argmax(ratios)) == gold)
        assert found[name, "acc"].value == sum(by_sum) / 2
        assert found[name, "acc_norm"].value == sum(by_character) / 2
    assert found["arc", "acc"].baselines == {"chance": pytest.approx((1 / 3 + 1 / 2) / 2)}
    assert found["arc", "acc"].task == "arc/arc" and found["arc", "acc"].num_examples == 2


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_a_likelihood_is_the_same_alone_beside_others_and_with_padding_on_either_side(
    tiny: Tiny, family: str
) -> None:
    tested = a_model(tiny, family, False)
    pairs = [("The cat", " saw"), ("The dog", " saw it"), ("She had a hat. " * 3, "Then he sings")]
    together, _ = log_likelihoods(tested, [*pairs, *pairs[:2]])
    assert together[:2].tolist() == together[3:].tolist()
    alone = [log_likelihoods(tested, [pair])[0][0] for pair in pairs]
    assert together[:3] == pytest.approx(alone, rel=1e-5)
    (ids, num_given), width = encode(tested, pairs[:1])[0], 12
    for left in (True, False):
        padding = [1] * (width - len(ids))
        row = [*padding, *ids] if left else [*ids, *padding]
        begin = len(padding) if left else 0
        mask_BL = torch.tensor([[begin <= n < begin + len(ids) for n in range(width)]]).long()
        places_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits_LV = tested.model(
                torch.tensor([row]), attention_mask=mask_BL, position_ids=places_BL
            ).logits[0]
        log_p_LV = logits_LV.double().log_softmax(-1)
        padded = sum(
            log_p_LV[begin + place - 1, ids[place]].item() for place in range(num_given, len(ids))
        )
        assert alone[0] == pytest.approx(padded, rel=1e-5)


def test_what_is_too_long_loses_its_beginning(tiny: Tiny) -> None:
    tested = a_model(tiny, "qwen3", False, max_length=16)
    ((ids, num_given),) = encode(tested, [("The cat saw. " * 20, "Then he sings")])
    whole = tested.tokenizer("The cat saw. " * 20 + "Then he sings").input_ids
    assert list(ids) == whole[-17:]
    given = tested.tokenizer(("The cat saw. " * 20).rstrip()).input_ids
    assert 17 - num_given == len(whole) - len(given)


REFUSED: dict[str, tuple[str, str | None, str]] = {
    "no path": ("arc", None, "eval.arc.path has no value"),
    "no file": ("arc", "", "eval.arc.path=.*nowhere: No such file"),
    "no JSON": ("lambada", "text\n", "line 1 is not in the set's own format"),
    "another set": ("hellaswag", json.dumps(ARC[0]), "eval.hellaswag.path=.*KeyError: 'act"),
    "no label": ("hellaswag", json.dumps(HELLASWAG[0] | {"label": ""}), "line 1.*ValueError"),
    "no such choice": ("arc", json.dumps(ARC[0] | {"answerKey": "D"}), "line 1.*ValueError"),
    "an empty file": ("lambada", "", "the file is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_one_line_before_any_work(tmp_path: Path, case: str) -> None:
    name, content, line = REFUSED[case]
    file = tmp_path / ("nowhere" if case == "no file" else "file.jsonl")
    if content is not None and case != "no file":
        file.write_text(content)
    options = Eval(measures=[name], **{name: LocalFile(None if content is None else str(file))})
    with pytest.raises(UserError, match=line) as caught:
        measures.check(options, Head.causal)
    assert "\n" not in str(caught.value)


def test_a_masked_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"eval.measures=\[lambada\]: a masked model.*task=clm"):
        measures.check(Eval(measures=["lambada"]), Head.masked)
