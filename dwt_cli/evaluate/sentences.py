"""Sentences as a model reads them: tokenised, framed, and batched without padding.

Legend: S sentences of one length, L positions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.score import EvaluatedModel
from dwt_cli.models.anatomy import num_positions

_POSITIONS = {"cpu": 1 << 12, "cuda": 1 << 18}  # on a CPU a batch's activations stay in the cache

Sentence = tuple[int, ...]
"""The ids of the tokens, in the task's frame: of masked language models [CLS] ... [SEP]."""


@dataclass(frozen=True)
class Encoded:
    """Sentences in the order of their texts, and how many were longer than the model reads."""

    sentences: list[Sentence]
    num_truncated: int

    def remarks(self) -> tuple[str, ...]:
        if not self.num_truncated:
            return ()
        return (f"{self.num_truncated:,} of {len(self.sentences):,} sentences truncated",)


def encode(tested: EvaluatedModel, texts: Sequence[str]) -> Encoded:
    """Tokenise, cut to the model's positions, and frame with the task's special tokens."""
    before, after = tested.task.frame.ids(tested.tokenizer)
    room = num_positions(tested.model.config) - len(before) - len(after)
    ids = ids_of(tested.tokenizer, texts)
    framed = [(*before, *each[:room], *after) for each in ids]
    return Encoded(framed, sum(len(each) > room for each in ids))


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
