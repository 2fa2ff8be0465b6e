"""Causal language modelling: framing, the shift, and likelihoods."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.data.corpus import Corpus, build
from dwt_cli.data.heldout import LeakCheck
from dwt_cli.data.options import Data, TokenizerKind
from dwt_cli.data.source import Document, Progress, no_progress
from dwt_cli.evaluate.blimp import log_likelihoods
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.samples import samples
from dwt_cli.evaluate.sentences import encode
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.options import CausalLM
from tests.conftest import Sentences, tiny_architecture

L, V, MARK = 24, 300, 0
FAMILIES = ["qwen3", "llama", "gpt2"]


def built(source: Sentences, folder: Path) -> Corpus:
    kind = TokenizerKind.bpe
    data = Data(block_length=L, vocab_size=V, tokenizer_kind=kind, heldout_fraction=0.25)
    build(source, data, CausalLM.frame, None, folder, no_progress, print)
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(Sentences(num_documents=12), tmp_path_factory.mktemp("causal"))


def test_blocks_are_the_text_between_marks(corpus: Corpus) -> None:
    blocks_BL = corpus.train[np.arange(len(corpus.train))]
    assert (blocks_BL[:, 0] == MARK).all()
    stream = blocks_BL[:, 1:].flatten().tolist()
    cuts = [-1, *(n for n, i in enumerate(stream) if i == MARK)]
    read = [
        corpus.tokenizer.decode(stream[start + 1 : end]) for start, end in itertools.pairwise(cuts)
    ]
    text = {"\n".join(each.paragraphs) for each in Sentences(12).documents(no_progress)}
    assert len(read) > 5
    assert set(read) < text
    assert MARK in blocks_BL[:, 5:-1], "documents end inside blocks"


def test_each_position_is_compared_with_the_next_one(corpus: Corpus) -> None:
    batches = TrainBatches(corpus.train, NextToken(), 4, 0, "student")
    batch = batches.batch(3)
    expected = [
        (block * L + place, int(batch.ids_BL[block, place + 1]))
        for block in range(4)
        for place in range(L - 1)
    ]
    assert list(zip(batch.rows_N.tolist(), batch.labels_N.tolist(), strict=True)) == expected
    assert batches.num_targets(3) == len(expected) == 4 * CausalLM().num_targets(L)
    assert batches.tokens_per_step == 4 * L
    every = [batches.batch(step).labels_N for step in range(8)]
    assert MARK in torch.cat(every), "the mark of a document that follows is a target"
    parts = [batches.batch(3, part, 2) for part in range(2)]
    assert torch.equal(torch.cat([part.labels_N for part in parts]), batch.labels_N)
    assert HeldoutBatches(corpus.heldout, NextToken(), 5, 2).num_targets == 5 * (L - 1)


class Accented(Sentences):
    """Texts whose characters take several bytes, and several tokens."""

    def documents(self, progress: Progress) -> Iterator[Document]:
        for document in super().documents(progress):
            texts = [text.replace("a", "\u00e9 \U0001f600") for text in document.paragraphs]
            yield Document(document.name, (*texts, "  "))


@pytest.mark.parametrize("text", [Sentences, Accented])
def test_bits_per_byte_are_over_the_text_as_it_was_read(
    tmp_path: Path, text: type[Sentences]
) -> None:
    corpus = built(text(num_documents=12), tmp_path / "corpus")
    letters = ByteLevel.alphabet()  # one for each byte: a block may end inside a character
    names = corpus.tokenizer.convert_ids_to_tokens
    there = len(corpus.heldout)
    (rest,) = corpus.heldout.rest  # what fills no block is scored too
    assert rest[0] == MARK and 1 < len(rest) < L
    for count in (1, 3, there, there + 1):
        ids = corpus.heldout[np.arange(min(count, there))].flatten().tolist()
        tokens = names(ids + (rest if count > there else []))
        written = sum(len(token) for token in tokens if set(token) <= {*letters} - {*"<|>"})
        assert corpus.heldout.num_bytes(count) == written
    check = LeakCheck(0.25)
    assert list(check.split(text(num_documents=12).documents(no_progress)))
    kept = check.finish().documents
    assert written == sum(len("\n".join(document.paragraphs).encode()) for document in kept)
    heldout = HeldoutBatches(corpus.heldout, NextToken(), there, 7)
    model = make_model(tiny_architecture("qwen3", vocab_size=V, max_length=L), 0, "student")
    found = heldout_metrics(LanguageModel(model, torch.float32), heldout, torch.device("cpu"))
    nats = found["loss"] * heldout.num_targets
    assert heldout.num_targets == there * (L - 1) + len(rest) - 1
    expected = nats / math.log(2) / written
    assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    knows_nothing = math.log2(V) * heldout.num_targets / written
    assert found["bits_per_byte"] == pytest.approx(knows_nothing, rel=0.1)


def test_a_masked_text_has_no_bits_per_byte(corpus_folder: Path) -> None:
    assert Corpus.open(corpus_folder).heldout.num_bytes(3) is None


def test_samples_are_the_same_every_time_and_use_nobody_s_numbers(corpus: Corpus) -> None:
    model = make_model(tiny_architecture("gpt2", vocab_size=V, max_length=L), 0, "student")
    state = torch.get_rng_state()
    first, again = samples(model, corpus), samples(model, corpus)
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 3
    beginnings = corpus.tokenizer.batch_decode(corpus.heldout[np.arange(len(corpus.heldout))])
    for sample in first:
        given, _, written = sample.partition(" | ")
        assert any(text.startswith(f"<|endoftext|>{given}") for text in beginnings)
        assert written


def test_a_sentence_by_itself_begins_with_a_space(corpus: Corpus) -> None:
    model = make_model(tiny_architecture("gpt2", vocab_size=V, max_length=64), 0, "student")
    tested = EvaluatedModel(
        model, corpus.tokenizer, CausalLM(), "", torch.device("cpu"), torch.float32
    )
    ((mark, *tokens, end),), remarks = encode(tested, ["bark belin."])
    assert corpus.tokenizer.decode(tokens) == " bark belin."
    assert (mark, end, remarks) == (MARK, MARK, ())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sentence_has_one_likelihood(corpus: Corpus, family: str) -> None:
    """Alone or beside others: that of its tokens after the mark, by a plain call."""
    made = make_model(tiny_architecture(family, vocab_size=V, max_length=64), 0, "student")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    model = LanguageModel(made, torch.float32).eval()
    sentences = [(MARK, *ids, MARK) for ids in ((70, 9), (11, 30, 31, 12), (9, 70), (8,))]
    both = log_likelihoods(model, sentences, NextToken(), torch.device("cpu"))
    for sentence, beside in zip(sentences, both, strict=True):
        (alone,) = log_likelihoods(model, [sentence], NextToken(), torch.device("cpu"))
        with torch.no_grad():
            padded = torch.tensor([[*sentence, 5, 5, 5]])
            log_p_LV = made(input_ids=padded).logits[0].double().log_softmax(-1)
        tokens = sentence[1:-1]
        plain = sum(log_p_LV[place, token].item() for place, token in enumerate(tokens))
        assert [beside, alone] == pytest.approx([plain] * 2, abs=1e-5)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    lacking = train_tokenizer(["some text"], V, L)
    lacking.eos_token = None
    lacking.save_pretrained(tmp_path / "tokenizer")
    data = Data(block_length=L, vocab_size=V)
    where = (str(tmp_path / "tokenizer"), tmp_path / "corpus", no_progress, print)
    with pytest.raises(UserError, match="has no eos_token, which the task needs"):
        build(Sentences(), data, CausalLM.frame, *where)


@pytest.mark.parametrize(("bos", "begins"), [("<|padding|>", 1), (None, 0)])
def test_a_block_begins_as_the_tokenizer_s_texts_do(
    corpus: Corpus, bos: str | None, begins: int
) -> None:
    tokenizer: PreTrainedTokenizerBase = train_tokenizer(["some text"], V, L)
    tokenizer.bos_token = bos
    assert CausalLM.frame.ids(tokenizer) == ([begins], [MARK])
