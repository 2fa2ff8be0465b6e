"""Sentences: of the held-out text, and as a model reads them, framed."""

import re
from collections.abc import Sequence

import numpy as np

from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Frame
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.models.anatomy import num_positions
from dwt_cli.tasks.likelihoods import Sentence

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")


def heldout_sentences(corpus: Corpus, frame: Frame) -> list[str]:
    """Return distinct sentences in the order of the text, as the corpus's tokenizer decodes them.

    Left out are sentences with a token that stands for unknown text, and the paragraph that the
    last block cuts off.
    """
    tokenizer = corpus.tokenizer
    before, (end,) = frame.ids(tokenizer)
    blocks_BL = corpus.heldout[np.arange(len(corpus.heldout))]
    stream = blocks_BL[:, len(before) :].reshape(-1)
    ends = np.flatnonzero(stream == end)
    paragraphs = np.split(stream, ends + 1)[:-1]
    texts = tokenizer.batch_decode([paragraph[:-1].tolist() for paragraph in paragraphs])
    sentences = dict.fromkeys(
        sentence for text in texts for sentence in _BETWEEN_SENTENCES.split(text.strip())
    )
    unknown = tokenizer.unk_token
    return [each for each in sentences if each and not (unknown and unknown in each)]


def encode(tested: EvaluatedModel, texts: Sequence[str]) -> tuple[list[Sentence], tuple[str, ...]]:
    """Return texts in tokens and the task's frame, and remarks if the model's length cut some."""
    before, after = tested.task.frame.ids(tested.tokenizer)
    room = num_positions(tested.model.config) - len(before) - len(after)
    ids = ids_of(tested.tokenizer, [tested.task.frame.lead + text for text in texts])
    num_cut = sum(len(each) > room for each in ids)
    remarks = (f"{num_cut:,} of {len(ids):,} sentences truncated",) if num_cut else ()
    return [(*before, *each[:room], *after) for each in ids], remarks
