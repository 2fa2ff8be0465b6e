"""Likelihoods of texts that begin alike, against one plain call for each token."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks import likelihoods
from dwt_cli.tasks.likelihoods import Sentence, continuations
from tests.conftest import tiny_architecture

CPU = torch.device("cpu")
V = 40
SAME = (0, 7, 8, 9, 30)
TEXTS: list[tuple[Sentence, int]] = [
    ((*SAME, 4, 5, 6), 1), ((*SAME, 4, 5), 1), ((*SAME, 4, 9, 9), 5), (SAME, 2), ((3, 8), 1),
    ((*SAME, 4, 5, 6), 1), ((3, 8, *range(20)), 3), ((3, 9), 1), ((3, 8, *range(19), 2), 12),
]  # fmt: skip


def made(family: str, **changes: Any) -> PreTrainedModel:
    model = make_model(tiny_architecture(family, vocab_size=V, max_length=64), 0, "student")
    model.config.update(changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # every token matters to every other
    return model.eval()


@torch.no_grad()
def one_by_one(model: PreTrainedModel, ids: Sentence, num_given: int) -> tuple[float, bool]:
    total, greedy = 0.0, True
    for place in range(num_given, len(ids)):
        logits_V = model(torch.tensor([ids[:place]])).logits[0, -1].double()
        total += logits_V.log_softmax(-1)[ids[place]].item()
        greedy &= logits_V.argmax().item() == ids[place]
    return total, greedy


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of positions of each row that a model reads."""
    seen: list[int] = []
    forward = LanguageModel.forward

    def counting(self: Any, ids_BL: Any, *others: Any) -> Any:
        seen.extend([ids_BL.shape[1]] * len(ids_BL))
        return forward(self, ids_BL, *others)

    monkeypatch.setattr(LanguageModel, "forward", counting)
    return seen


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2", "olmo2", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("row", [1, 12, 192])
def test_against_one_token_at_a_time(
    monkeypatch: pytest.MonkeyPatch, family: str, row: int
) -> None:
    monkeypatch.setattr(likelihoods, "_ROW", row)
    monkeypatch.setitem(likelihoods._POSITIONS, "cpu", 50)
    monkeypatch.setitem(likelihoods._LOGITS, "cpu", 3 * V)
    model = made(family)
    greedy = int(model(torch.tensor([(3, 9)])).logits[0, -1].argmax())
    texts = [*TEXTS, ((3, 9, greedy), 2)]
    log_p, is_greedy = continuations(LanguageModel(model, torch.float32), texts, CPU)
    expected = [one_by_one(model, *text) for text in texts]
    assert log_p == pytest.approx([value for value, _ in expected], abs=1e-5)
    assert is_greedy.tolist() == [greedy for _, greedy in expected]
    assert is_greedy[-1] and not is_greedy[0]
    assert log_p[0] == log_p[5], "the same text"


def test_what_texts_begin_with_in_common_is_computed_once(read: list[int]) -> None:
    continuations(LanguageModel(made("qwen3"), torch.float32), TEXTS, CPU)
    inputs = {ids[:end] for ids, _ in TEXTS for end in range(1, len(ids))}
    assert read == [len(inputs)]
    assert len(inputs) < sum(len(ids) - 1 for ids, _ in TEXTS) / 2


def test_texts_longer_than_a_layer_sees_share_nothing(read: list[int]) -> None:
    model = made("gemma2", sliding_window=4, layer_types=["sliding_attention"] * 2)
    log_p, _ = continuations(LanguageModel(model, torch.float32), TEXTS, CPU)
    assert len(read) == len(TEXTS)
    expected = [one_by_one(model, *text)[0] for text in TEXTS]
    assert log_p == pytest.approx(expected, abs=1e-5)
    sees_all = [one_by_one(made("gemma2"), *text)[0] for text in TEXTS]
    assert log_p != pytest.approx(sees_all, abs=1e-2)


def test_in_bf16_as_the_model_s_run_has_it() -> None:
    model = LanguageModel(made("qwen3"), torch.bfloat16).eval()
    log_p, _ = continuations(model, TEXTS, CPU)
    alone = [continuations(model, [text], CPU)[0][0] for text in TEXTS]
    assert log_p == pytest.approx(alone, rel=0.02)


def test_of_an_unknown_family_every_text_is_computed_whole(
    monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    model = made("gpt2")
    expected = [one_by_one(model, *text)[0] for text in TEXTS]
    monkeypatch.delitem(ANATOMIES, "gpt2")
    log_p, _ = continuations(LanguageModel(model, torch.float32), TEXTS, CPU)
    assert log_p == pytest.approx(expected, abs=1e-5)
    assert len(read) == len(TEXTS)


@pytest.mark.parametrize("texts", [[], [((3,), 1)], [((3, 8), 2), ((3,), 1)]], ids=len)
def test_where_nothing_is_asked_nothing_is_computed(
    read: list[int], texts: list[tuple[Sentence, int]]
) -> None:
    log_p, is_greedy = continuations(LanguageModel(made("qwen3"), torch.float32), texts, CPU)
    assert log_p.tolist() == [0] * len(texts) and is_greedy.all()
    assert read == []
