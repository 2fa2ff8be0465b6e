"""Probing: what a linear classifier reads from a frozen encoder, on held-out text.

Two tasks of SentEval (Conneau et al. 2018, 1805.01070): bigram shift (were two neighbouring words
swapped?) and word content (which of the target words is in the sentence?), at the size that the
held-out text allows: by five folds, so that every example is tested once.

A sentence is the mean of its tokens' last hidden states. Not [CLS]: masked language modelling
without a sentence objective asks nothing of that position.

Legend: E examples, S sentences of one length, L positions, D width.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dwt_cli.base.errors import UserError
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.measurement import EvaluatedModel, Say, Score
from dwt_cli.evaluate.options import Probing
from dwt_cli.evaluate.sentences import encode, heldout_sentences
from dwt_cli.tasks.likelihoods import Sentence, equally_long

MIN_WORDS, MAX_WORDS = 5, 28  # SentEval's
MIN_SENTENCES = 20  # of a task
NUM_FOLDS = 5
_WORD = r"\w+"
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation


@dataclass(frozen=True)
class Examples:
    """A task: texts, and by example (E) int64 labels and folds.

    Of each sentence there are ``per_sentence`` examples, one after the other and in one fold.
    targets: the words that the labels name, if they name words.
    """

    task: str
    texts: list[str]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    per_sentence: int
    targets: tuple[str, ...] = ()


def scores(tested: EvaluatedModel, corpus: Corpus, options: Probing, say: Say) -> list[Score]:
    """Return the accuracy of each task; one that the text is too short for is left out, aloud.

    baselines: chance; a bag of the words; in word content, a bag of the words that are no targets
    (what the rest of the sentence gives away).
    """
    sentences = [
        sentence
        for sentence in heldout_sentences(corpus, tested.task.frame)
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS
    ]
    found = []
    for make in (bigram_shift, word_content):
        try:
            found.append(_score(tested, make(sentences, options)))
        except UserError as error:
            say(str(error))
    return found


def bigram_shift(sentences: Sequence[str], options: Probing) -> Examples:
    """Return each sentence twice, as it is (0) and with two neighbouring words swapped (1).

    So its words, its length and its subject say nothing about the label. Swapped are plain words
    with nothing but a space between them, never the first: neither a capital nor a full stop
    moves. Raises `UserError` for too few sentences.
    """
    seed = seed_for(options.seed, "probing", "bigram_shift")
    order = generator(seed).permutation(len(sentences))
    places = {int(number): _swappable(sentences[number].split()) for number in order}
    chosen = [number for number, there in places.items() if there][: options.num_sentences]
    _require(len(chosen), "bigram_shift")
    texts = []
    for number in chosen:
        words = sentences[number].split()
        place = generator(seed, number + 1).choice(places[number])
        texts.append(" ".join(words))
        words[place], words[place + 1] = words[place + 1], words[place]
        texts.append(" ".join(words))
    numbers = np.arange(len(texts))  # in an order that is random already
    return Examples("bigram_shift", texts, numbers % 2, numbers // 2 % NUM_FOLDS, per_sentence=2)


def word_content(sentences: Sequence[str], options: Probing) -> Examples:
    """Return sentences with exactly one of the target words each, equally many for every word.

    The targets are the rarest words that have enough sentences: more frequent ones meet in one
    sentence too often. Raises `UserError` for too few sentences.
    """
    seed = seed_for(options.seed, "probing", "word_content")
    bags = [set(re.findall(_WORD, sentence.lower())) for sentence in sentences]
    counts = Counter(word for bag in bags for word in bag if word.isalpha() and len(word) > 2)
    enough = 2 * options.num_per_word  # many are lost where two targets meet
    often = sorted((count, word) for word, count in counts.items() if count >= enough)
    candidates = {word for _, word in often[: options.num_words]}
    by_word: dict[str, list[int]] = defaultdict(list)
    for number in generator(seed).permutation(len(sentences)):
        if len(met := bags[number] & candidates) == 1:
            by_word[met.pop()].append(int(number))
    targets = sorted(word for word in by_word if len(by_word[word]) >= options.num_per_word)
    num_examples = len(targets) * options.num_per_word
    _require(num_examples if len(targets) > 1 else 0, "word_content")
    numbers = [by_word[word][: options.num_per_word] for word in targets]
    return Examples(
        "word_content",
        [sentences[number] for chosen in numbers for number in chosen],
        np.repeat(np.arange(len(targets)), options.num_per_word),
        np.tile(np.arange(options.num_per_word) % NUM_FOLDS, len(targets)),
        per_sentence=1,
        targets=tuple(targets),
    )


def _swappable(words: list[str]) -> list[int]:
    return [
        place
        for place, (one, other) in enumerate(pairwise(words))
        if place > 0 and one.isalpha() and other.isalpha() and one.lower() != other.lower()
    ]


def _require(num_sentences: int, task: str) -> None:
    if num_sentences < MIN_SENTENCES:
        raise UserError(
            f"eval.probing: {task} needs {MIN_SENTENCES} sentences, the held-out text has "
            f"{num_sentences}; raise data.heldout_fraction or lower eval.probing.num_per_word"
        )


def _score(tested: EvaluatedModel, examples: Examples) -> Score:
    sentences, remarks = encode(tested, examples.texts)
    hits = probe(sentence_means(tested, sentences), examples)
    num_labels = int(examples.labels.max()) + 1
    baselines = {
        "chance": 1 / num_labels,
        "bag of words": float(probe(bag_of_words(examples), examples).mean()),
    }
    if examples.targets:
        others = bag_of_words(examples, without=examples.targets)
        baselines["bag of other words"] = float(probe(others, examples).mean())
    per_sentence = hits.reshape(-1, examples.per_sentence).mean(1)
    return Score(
        f"probing/{examples.task}",
        "accuracy",
        float(hits.mean()),
        float(per_sentence.std()) / sqrt(len(per_sentence)),
        len(hits),
        baselines=baselines,
        remarks=(f"{num_labels} classes", *remarks),
    )


@torch.inference_mode()
def sentence_means(tested: EvaluatedModel, sentences: Sequence[Sentence]) -> NDArray[np.float32]:
    """Return the mean of each sentence's last hidden states (E, D), without those of its frame."""
    model = tested.language_model
    before, after = map(len, tested.task.frame.ids(tested.tokenizer))
    means_ED = np.empty((len(sentences), tested.model.config.hidden_size), dtype=np.float32)
    for numbers, ids_SL in equally_long(sentences, tested.device):
        states_SLD = model.hidden(ids_SL)[:, before : ids_SL.shape[1] - after]
        means_ED[numbers] = states_SLD.float().mean(1).cpu().numpy()
    return means_ED


def bag_of_words(examples: Examples, without: Sequence[str] = ()) -> Any:
    """Return counts of words (E, W), sparse."""
    from sklearn.feature_extraction.text import CountVectorizer  # here: it takes a second

    counter = CountVectorizer(token_pattern=_WORD, stop_words=list(without) or None)
    return counter.fit_transform(examples.texts)


def probe(features: Any, examples: Examples) -> NDArray[np.bool_]:
    """Return which examples (E) a logistic regression gets right, not trained on their fold.

    features: a row per example, dense or sparse; dense ones are standardised. The regularisation
    is the one that does best on the next fold, which is not trained on either; the strongest of
    equals.
    """
    from scipy.sparse import issparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels_E, hits_E = examples.labels, np.empty(len(examples.labels), dtype=bool)
    for fold in range(NUM_FOLDS):
        test = examples.folds == fold
        validation = examples.folds == (fold + 1) % NUM_FOLDS
        train = ~(test | validation)
        seen = features
        if not issparse(features):
            seen = StandardScaler().fit(features[train]).transform(features)
        fitted = [
            LogisticRegression(C=strength, max_iter=1000).fit(seen[train], labels_E[train])
            for strength in _STRENGTHS
        ]
        accuracies = [each.score(seen[validation], labels_E[validation]) for each in fitted]
        best = fitted[int(np.argmax(accuracies))]
        hits_E[test] = best.predict(seen[test]) == labels_E[test]
    return hits_E
