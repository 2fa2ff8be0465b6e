"""Sentences as a model reads them: tokenised, framed, and batched without padding.

Legend: S sentences of one length, L positions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.models.anatomy import num_positions

_POSITIONS = {"cpu": 1 << 12, "cuda": 1 << 18}  # on a CPU a batch's activations stay in the cache

Sentence = tuple[int, ...]
"""The ids of the tokens, in the task's frame: of masked language models [CLS] ... [SEP]."""


def encode(tested: EvaluatedModel, texts: Sequence[str]) -> tuple[list[Sentence], tuple[str, ...]]:
    """Return texts in tokens and the task's frame, and remarks if the model's length cut some."""
    before, after = tested.task.frame.ids(tested.tokenizer)
    room = num_positions(tested.model.config) - len(before) - len(after)
    ids = ids_of(tested.tokenizer, texts)
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
