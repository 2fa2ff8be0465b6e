"""Sentences: of the held-out text, and as a model reads them, framed and without padding.

Legend: S sentences of one length, L positions.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Frame
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.models.anatomy import num_positions

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_POSITIONS = {"cpu": 1 << 12, "cuda": 1 << 18}  # on a CPU a batch's activations stay in the cache

Sentence = tuple[int, ...]
"""The ids of the tokens, in the task's frame: of masked language models [CLS] ... [SEP]."""


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


def equally_long(
    sentences: Sequence[Sentence],
    device: torch.device,
    passes: Callable[[int], int] = lambda length: 1,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield batches of one length each: the sentences' numbers, and their ids (S, L) int64.

    passes: how often a sentence of L positions goes through the model; it bounds the batch.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, sentence in enumerate(sentences):
        by_length[len(sentence)].append(number)
    for length, numbers in sorted(by_length.items()):
        size = max(1, _POSITIONS[device.type] // (length * max(1, passes(length))))
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            yield chosen, torch.tensor([sentences[number] for number in chosen], device=device)
