"""The sentences of the held-out text, read back from its packed blocks."""

import re

import numpy as np

from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Frame

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
