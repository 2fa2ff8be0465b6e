"""The probing tasks give nothing away but what they ask for, and the probe finds what is there."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate import probing
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Probing
from dwt_cli.evaluate.probing import (
    NUM_FOLDS,
    Examples,
    bag_of_words,
    bigram_shift,
    probe,
    scores,
    sentence_means,
    word_content,
)
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.tasks.options import MaskedLM

CPU = torch.device("cpu")
OPTIONS = Probing(num_sentences=200, num_words=6, num_per_word=20)
WORDS = [a + b for a in "bdfglmnprst" for b in ("ark", "elin", "ossa", "um", "ive", "aro")]


@pytest.fixture(scope="module")
def text() -> list[str]:
    """Sentences with a capital, a comma and a full stop; words of very different frequency."""
    draw = random.Random(0)
    weights = [1 / (rank + 3) for rank in range(len(WORDS))]
    found = []
    for _ in range(600):
        words = draw.choices(WORDS, weights, k=draw.randint(6, 12))
        words[2] += ","
        found.append(" ".join(words).capitalize() + ".")
    return list(dict.fromkeys(found))


def pairs(examples: Examples) -> list[tuple[list[str], list[str]]]:
    split = [text.split() for text in examples.texts]
    return list(zip(split[::2], split[1::2], strict=True))


def test_bigram_shift_swaps_two_plain_neighbours(text: list[str]) -> None:
    examples = bigram_shift(text, OPTIONS)
    assert len(examples.texts) == 2 * OPTIONS.num_sentences
    assert examples.labels.tolist() == [0, 1] * OPTIONS.num_sentences
    places = set()
    for before, after in pairs(examples):
        assert " ".join(before) in text
        first, second = (i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        assert second == first + 1 and first > 0
        assert (after[first], after[second]) == (before[second], before[first])
        assert before[first].isalpha() and before[second].isalpha()
        places.add(first)
    assert places == set(range(3, 10)), "anywhere but at the comma, the capital and the full stop"


def test_a_bag_of_words_is_at_chance_in_bigram_shift(text: list[str]) -> None:
    examples = bigram_shift(text, OPTIONS)
    assert probe(bag_of_words(examples), examples).mean() == 0.5
    # it is the words' order that is not in the bag: with it, the probe learns the training folds
    ordered = np.array([[WORDS.index(w.lower().strip(".,")) for w in t.split()[:5]]
                        for t in examples.texts], dtype=float)  # fmt: skip
    assert probe(ordered, examples).mean() != 0.5


def test_both_versions_of_a_sentence_are_in_one_fold(text: list[str]) -> None:
    examples = bigram_shift(text, OPTIONS)
    assert (examples.folds[::2] == examples.folds[1::2]).all()
    assert Counter(examples.folds.tolist()) == dict.fromkeys(range(NUM_FOLDS), 80)


def test_word_content_has_one_target_in_each_sentence(text: list[str]) -> None:
    examples = word_content(text, OPTIONS)
    assert 2 < len(examples.targets) <= OPTIONS.num_words
    for sentence, label in zip(examples.texts, examples.labels.tolist(), strict=True):
        words = sentence.lower().replace(",", "").replace(".", "").split()
        assert set(words) & set(examples.targets) == {examples.targets[label]}
    assert len(set(examples.texts)) == len(examples.texts)


def test_bookkeeping_says_nothing_about_the_word(text: list[str]) -> None:
    """As many sentences of each word in each fold, and neither place nor length helps."""
    examples = word_content(text, OPTIONS)
    cells = Counter(zip(examples.labels.tolist(), examples.folds.tolist(), strict=True))
    assert len(cells) == len(examples.targets) * NUM_FOLDS
    assert set(cells.values()) == {OPTIONS.num_per_word // NUM_FOLDS}
    chance = 1 / len(examples.targets)
    margin = 3 * (chance * (1 - chance) / len(examples.texts)) ** 0.5
    places = np.array([text.index(each) for each in examples.texts], dtype=float)
    lengths = np.array([len(each.split()) for each in examples.texts], dtype=float)
    bookkeeping = np.stack([places, lengths, places % 2, places**2], axis=1)
    assert abs(probe(bookkeeping, examples).mean() - chance) < margin
    assert probe(bag_of_words(examples), examples).mean() > 0.9
    others = bag_of_words(examples, without=examples.targets)
    assert abs(probe(others, examples).mean() - chance) < margin, "its words are drawn apart"


@pytest.mark.parametrize("make", [bigram_shift, word_content])
def test_the_seed_and_nothing_else_decides(
    text: list[str], make: Callable[[list[str], Probing], Examples]
) -> None:
    first, second = make(text, OPTIONS), make(text, OPTIONS)
    assert first.texts == second.texts
    assert make(text, replace(OPTIONS, seed=1)).texts != first.texts


def blobs(distance: float) -> tuple[np.ndarray[Any, Any], Examples]:
    draw = np.random.default_rng(0)
    labels = np.arange(600) % 3
    features = draw.normal(size=(600, 5)) + distance * np.eye(5)[labels]
    return features, Examples("blobs", [""] * 600, labels, np.arange(600) // 3 % NUM_FOLDS, 1)


def test_the_probe_finds_what_is_there_and_only_that() -> None:
    assert probe(*blobs(distance=8)).all()
    assert abs(probe(*blobs(distance=0)).mean() - 1 / 3) < 0.06


def test_the_probe_has_not_seen_what_it_is_tested_on() -> None:
    """Labels without a rule can be learned by heart, and that must not help."""
    draw = np.random.default_rng(1)
    labels = np.arange(300) % 2
    draw.shuffle(labels)
    examples = Examples("noise", [""] * 300, labels, np.arange(300) % NUM_FOLDS, 1)
    assert abs(probe(np.eye(300) + draw.normal(size=(300, 300)), examples).mean() - 0.5) < 0.1


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@torch.no_grad()
def test_means_are_those_of_the_tokens_alone(
    tiny: Callable[..., Architecture], corpus: Corpus, family: str
) -> None:
    model = make_model(tiny(family, dropout=0.5), 0, "student")
    tested = EvaluatedModel(model, corpus.tokenizer, MaskedLM(), "tiny", CPU, torch.float32)
    sentences = [(2, 7, 9, 3), (2, 11, 3), (2, 30, 31, 32, 33, 3), (2, 9, 7, 3)]
    found = sentence_means(tested, sentences)
    for mean_D, sentence in zip(found, sentences, strict=True):
        hidden_LD = model.base_model(torch.tensor([sentence])).last_hidden_state[0]
        expected_D = hidden_LD[1:-1].double().mean(0).float()
        torch.testing.assert_close(torch.from_numpy(mean_D), expected_D, rtol=1e-4, atol=1e-5)


def test_scores_of_a_model(tiny: Callable[..., Architecture], corpus: Corpus) -> None:
    model = make_model(tiny(), 0, "student")
    tested = EvaluatedModel(model, corpus.tokenizer, MaskedLM(), "tiny", CPU, torch.float32)
    shift, content = scores(tested, corpus, replace(OPTIONS, num_words=3, num_per_word=10), print)
    assert (shift.task, content.task) == ("probing/bigram_shift", "probing/word_content")
    assert shift.baselines == {"chance": 0.5, "bag of words": 0.5}
    assert content.baselines.keys() == {"chance", "bag of words", "bag of other words"}
    assert content.num_examples == 10 / content.baselines["chance"]
    p = content.value
    assert content.stderr == pytest.approx((p * (1 - p) / content.num_examples) ** 0.5)
    assert shift.stderr is not None and 0 < shift.stderr <= (0.25 / shift.num_examples) ** 0.5 * 2


def test_a_task_that_lacks_sentences_is_told_of(
    tiny: Callable[..., Architecture], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "heldout_sentences", lambda *_: ["a b c d e."] * 60)
    tested = EvaluatedModel(
        make_model(tiny(), 0, "student"), corpus.tokenizer, MaskedLM(), "tiny", CPU, torch.float32
    )
    said: list[str] = []
    assert [score.task for score in scores(tested, corpus, OPTIONS, said.append)] == [
        "probing/bigram_shift"
    ]
    (told,) = said
    assert "word_content needs 20 sentences" in told and "data.heldout_fraction" in told
