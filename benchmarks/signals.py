"""What is cached of a teacher's rows: bytes, variance, and the angle of the student's gradient.

    python benchmarks/signals.py --teacher MODEL... --student MODEL --corpus CORPUS [--draws 20]

MODEL: a decoder in the hub's format. CORPUS: a prepared text of the cache in their tokenizer; its
first training blocks are read. Entries of `sampled` and `top_k` are as many as fit into the bytes
of `threshold`. Prints Markdown. Legend: N rows, K entries, V vocabulary.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.base import Divergence, EntryRows
from dwt_cli.distill.objective.divergences import ForwardKL, TopK
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.signal.cached import asked, layout_of
from dwt_cli.distill.signal.coding import Layout
from dwt_cli.distill.signal.options import Cached, LikeliestOnly, Sampled, Threshold
from dwt_cli.distill.signal.store import keys_of
from dwt_cli.distill.teacher.signal import DenseLogits, ModelSignal, SoftTargets, SparseRows
from dwt_cli.models.checkpoint import open_folder
from dwt_cli.models.options import Head
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place

_BLOCKS_AT_ONCE = 16


def batches(corpus: Corpus, num_rows: int) -> Iterator[Batch]:
    """Yield the first blocks of a text, as many as have so many targets."""
    num_blocks = math.ceil(num_rows / (corpus.train.block_length - 1))
    for start in range(0, num_blocks, _BLOCKS_AT_ONCE):
        numbers = np.arange(start, min(start + _BLOCKS_AT_ONCE, num_blocks))
        places = [Place(int(number), 0, int(number)) for number in numbers]
        yield NextToken().batch(corpus.train[numbers], 0, places)


def cached_of(
    signal: ModelSignal, batch: Batch, cached: Cached, layout: Layout
) -> tuple[SparseRows, int]:
    """Return what is cached of an answer, as it comes back, and its bytes."""
    blocks = list(asked(signal, batch, keys_of(batch, ""), cached, layout, 1.0))
    rows = [layout.decode(block.content, block.num_rows) for block in blocks]
    weights_NK = np.concatenate([layout.weights(each) for each in rows])
    ids_NK, *_ = columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    known = [torch.from_numpy(each)[:, None] for each in columns[4:]]
    entries = EntryRows(torch.from_numpy(ids_NK), torch.from_numpy(weights_NK), *known)
    return SparseRows(entries, layout.vocab_size), sum(len(block.content) for block in blocks)


def bytes_per_row(
    signal: ModelSignal, texts: list[Batch], cached: Cached, vocab_size: int
) -> float:
    """Return them, in a vocabulary of some size."""
    layout = layout_of(cached, vocab_size)
    sizes = [cached_of(signal, batch, cached, layout)[1] for batch in texts]
    index = 24 * sum(len(batch.ids_BL) for batch in texts)
    return (sum(sizes) + index) / sum(len(batch.labels_N) for batch in texts)


def as_large(
    signal: ModelSignal, text: Batch, kind: type[Cached], size: float, vocab: int
) -> Cached:
    """Return the estimator with the most entries that take at most so many bytes a row."""
    number = 1
    while bytes_per_row(signal, [text], kind(number + 1), vocab) <= size:
        number += 1
    return kind(number)


def variance(signal: ModelSignal, texts: list[Batch], cached: Cached, num_draws: int) -> float:
    """Return the trace of a target's variance, mean over rows, by draws."""
    total, num_rows = 0.0, 0
    for batch in texts:
        t_NV = signal(batch).targets.dense().softmax(-1)
        for draw in range(num_draws):
            one = type(cached)(cached.num_entries, draw)
            layout = layout_of(one, t_NV.shape[1])
            entries = cached_of(signal, batch, one, layout)[0].entries
            found_NV = torch.zeros_like(t_NV).scatter_add_(1, entries.ids_CK, entries.weights_CK)
            total += (found_NV - t_NV).square().sum().item() / num_draws
        num_rows += len(t_NV)
    return total / num_rows


def gradient(
    student: LanguageModel, told: list[tuple[Batch, SoftTargets]], of: Divergence
) -> Tensor:
    """Return the gradient of all of a student's weights for the soft loss of all rows, flat."""
    student.zero_grad()
    for batch, targets in told:
        sums = DistillationSums(targets, batch.labels_N, Weights(0.0, 1.0), Comparison({"it": of}))
        student(*batch.inputs, Want(False, loss=sums)).loss.total.backward()
    parts = [each.grad.flatten() for each in student.parameters() if each.grad is not None]
    return torch.cat(parts).double()


def angle(one: Tensor, other: Tensor) -> float:
    """Return the angle between two vectors, in degrees."""
    cosine = one @ other / one.norm() / other.norm()
    return math.degrees(math.acos(min(1.0, cosine.item())))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", nargs="+", type=Path, required=True)
    parser.add_argument("--student", nargs="+", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--entries", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=32768, help="for the bits of an id")
    given = parser.parse_args()
    corpus = Corpus.open(given.corpus)
    texts = list(batches(corpus, given.rows))
    opened = {path: open_folder(path, Head.causal) for path in {*given.teacher, *given.student}}
    models = {path: LanguageModel(model, torch.float32) for path, model in opened.items()}
    threshold, vocab = Threshold(given.entries), given.vocab_size
    print(f"| teacher | entropy | bytes a target, {given.entries} entries | fit into as many bytes "
          "| variance of sampled / threshold |\n|---|---|---|---|---|")  # fmt: skip
    chosen: dict[Path, list[Cached]] = {}
    for number, path in enumerate(given.teacher, 1):
        signal = ModelSignal(models[path])
        size = bytes_per_row(signal, texts, threshold, vocab)
        others = [
            as_large(signal, texts[0], kind, size, vocab) for kind in (Sampled, LikeliestOnly)
        ]
        chosen[path] = [threshold, *others]
        t = [signal(batch).targets.dense().softmax(-1) for batch in texts]
        entropy = -torch.cat([each.xlogy(each).sum(-1) for each in t]).mean()
        ratio = variance(signal, texts, others[0], 3) / variance(signal, texts, threshold, 3)
        print(f"| {number} | {entropy:.2f} | {size:.1f} | sampled {others[0].num_entries}, top_k "
              f"{others[1].num_entries} | {ratio:.2f} |")  # fmt: skip
    print(
        "\n| student | cached | entries | angle to the dense gradient, degrees |\n|---|---|---|---|"
    )
    path = given.teacher[0]
    signal = ModelSignal(models[path])
    dense = [(batch, DenseLogits(signal(batch).targets.dense())) for batch in texts]
    for number, place in enumerate(given.student, 1):
        student = models[place].train().requires_grad_(True)
        exact = gradient(student, list(dense), ForwardKL())
        for cached in chosen[path]:
            found = []
            for draw in range(1 if isinstance(cached, LikeliestOnly) else given.draws):
                one = type(cached)(cached.num_entries, draw)
                layout = layout_of(one, corpus.report["vocabulary"])
                told = [(batch, cached_of(signal, batch, one, layout)[0]) for batch in texts]
                top_k = isinstance(cached, LikeliestOnly)
                of = TopK(k=cached.num_entries) if top_k else ForwardKL()
                found.append(angle(exact, gradient(student, list(told), of)))
            name = "top_k" if isinstance(cached, LikeliestOnly) else type(cached).__name__.lower()
            print(f"| {number} | {name} | {cached.num_entries} | {np.mean(found):.2f} |")


if __name__ == "__main__":
    main()
