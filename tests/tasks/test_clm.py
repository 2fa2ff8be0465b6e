"""Causal language modelling: framing, the shift, and likelihoods."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from dwt_cli.base.errors import UserError
from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.data.corpus import Corpus, build
from dwt_cli.data.options import Data
from dwt_cli.data.source import no_progress
from dwt_cli.evaluate.blimp import log_likelihoods
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.options import CausalLM
from tests.conftest import Sentences, tiny_architecture

L, V, MARK = 24, 300, 0
FAMILIES = ["qwen3", "llama", "gpt2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("causal")
    data = Data(block_length=L, vocab_size=V, heldout_fraction=0.25)
    task = (CausalLM.frame, None, folder, no_progress, print, CausalLM.vocabulary)
    build(Sentences(num_documents=12), data, *task)
    return Corpus.open(folder)


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
