"""The likelihoods of many texts: what they begin with in common is computed once.

Texts in the order of their ids share beginnings with their neighbours. Rows of them are trees: a
position sees the path that leads to it, and counts from its beginning.

Legend: S texts of one length, L positions, B rows of P positions, N positions after which an id is
asked for, T of them at once, E pairs of a position and an id, D width, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.models.wrapper import LanguageModel, OutputLayer, Want

Sentence = tuple[int, ...]
"""The ids of the tokens, in the task's frame: of masked language models [CLS] ... [SEP]."""

_POSITIONS = {"cpu": 1 << 12, "cuda": 1 << 18}  # on a CPU a batch's activations stay in the cache
_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 29}  # at once: what a normaliser reads lies in the cache
_ROW = 192  # positions: longer rows share more, and attention costs more


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


@dataclass(frozen=True)
class _Tree:
    """One row. ends: of each position, the place behind those that see it.

    edges: numbers of pairs of a position and an id after it. asked: the pairs of each text.
    """

    ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    asked: dict[int, list[int]] = field(default_factory=dict)


def _trees(texts: Sequence[tuple[Sentence, int]], most: int) -> Iterator[_Tree]:
    """Yield rows of at most so many positions, twice that where a text shares more than it adds.

    most: 0 gives every text a row of its own, as does one that is longer.
    """
    tree, path, before = _Tree(), list[int](), Sentence()
    for number in sorted(range(len(texts)), key=texts.__getitem__):
        ids, num_given = texts[number]
        pairs = zip(before, ids[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: eq(*pair), pairs))
        added = len(ids) - 1 - shared
        if len(tree.ids) + added > most * (1 + (shared > added)) and tree.ids:
            yield tree
            tree, path, shared = _Tree(), [], 0
        for place in path[shared:]:
            tree.ends[place] = len(tree.ids)
        path[shared:] = range(len(tree.ids), len(tree.ids) + len(ids) - 1 - shared)
        tree.ids.extend(ids[shared:-1])
        tree.ends.extend([1 << 62] * (len(tree.ids) - len(tree.ends)))
        edges = zip(path[num_given - 1 :], ids[num_given:], strict=True)
        tree.asked[number] = [tree.edges.setdefault(edge, len(tree.edges)) for edge in edges]
        before = ids[:-1]
    yield tree


@torch.inference_mode()
def continuations(
    model: LanguageModel, texts: Sequence[tuple[Sentence, int]], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return log p in nats of the ids of each text after the first, given these.

    And whether greedy decoding would write just them. texts: ids, and the number of them that are
    given, at least 1. Longer texts than a model's layers see share nothing, nor do any of a model
    whose parts are not known here.
    """
    log_p, is_greedy = np.zeros(len(texts)), np.ones(len(texts), dtype=bool)
    window = getattr(model.model.config, "sliding_window", None)
    is_seen = window is None or window >= max((len(ids) for ids, _ in texts), default=0)
    shares = model.anatomy is not None and is_seen
    trees = [tree for tree in _trees(texts, shares * _ROW) if tree.edges]  # others ask nothing
    trees.sort(key=lambda tree: -len(tree.ids))
    while trees:
        width = len(trees[0].ids)
        size = max(1, _POSITIONS[device.type] // width)
        batch, trees = trees[:size], trees[size:]
        found_E, greedy_E = _of_edges(model, batch, width, device, shares)
        first = 0
        for tree in batch:
            for number, edges in tree.asked.items():
                of_text = first + np.array(edges, dtype=int)
                log_p[number], is_greedy[number] = found_E[of_text].sum(), greedy_E[of_text].all()
            first += len(tree.edges)
    return log_p, is_greedy


def _of_edges(
    model: LanguageModel, trees: Sequence[_Tree], width: int, device: torch.device, shares: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    ids_BP = torch.zeros(len(trees), width, dtype=torch.long)
    ends_BP = torch.arange(1, width + 1).repeat(len(trees), 1)  # padding sees itself alone
    for row, tree in enumerate(trees):
        ids_BP[row, : len(tree.ids)] = torch.tensor(tree.ids)
        ends_BP[row, : len(tree.ids)] = torch.tensor(tree.ends).clamp(max=len(tree.ids))
    pairs_E2 = torch.tensor([(r * width + p, i) for r, t in enumerate(trees) for p, i in t.edges])
    rows_N, row_E = pairs_E2[:, 0].unique(return_inverse=True)
    labels_E = pairs_E2[:, 1]
    places_P = torch.arange(width, device=device)
    seen_BPP = (places_P <= places_P[:, None]) & (places_P[:, None] < ends_BP.to(device)[:, None])
    log_p_E = torch.zeros(len(row_E), dtype=torch.float64)
    is_greedy_E = torch.zeros(len(row_E), dtype=torch.bool)

    def ask(states_ND: Tensor, head: OutputLayer | None) -> None:
        size = max(1, _LOGITS[device.type] // model.model.config.vocab_size)
        for start in range(0, len(states_ND), size):
            states_TD = states_ND[start : start + size]
            logits_TV = (head(states_TD) if head else states_TD).float()
            chosen_E = ((row_E >= start) & (row_E < start + size)).nonzero().squeeze(1)
            asked = (row_E[chosen_E] - start).to(device), labels_E[chosen_E].to(device)
            logits_E, highest_T = logits_TV[asked], logits_TV.amax(-1)
            norm_T = logits_TV.sub_(highest_T[:, None]).exp_().sum(-1).log_() + highest_T
            log_p_E[chosen_E] = (logits_E - norm_T[asked[0]]).double().cpu()
            is_greedy_E[chosen_E] = (logits_E >= highest_T[asked[0]]).cpu()

    seen = seen_BPP if shares else None
    want = Want(logits=False, loss=ask, ragged=True, seen_BLL=seen)
    model(ids_BP.to(device), rows_N.to(device), want)
    return log_p_E.numpy(), is_greedy_E.numpy()
