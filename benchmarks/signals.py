"""What is cached of a teacher's rows: bytes, variance, and the angle of the student's gradient.

    python benchmarks/signals.py --teacher MODEL... --student MODEL --corpus CORPUS [--draws 20]

MODEL: a decoder in the hub's format. CORPUS: a prepared text of the cache in their tokenizer; its
first training blocks are read. Entries of `sampled` and `top_k` are as many as fit into the bytes
of `threshold`. Prints Markdown. Legend: N rows, K entries, V vocabulary.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timing import table
from torch import Tensor

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.base import Divergence
from dwt_cli.distill.objective.divergences import ForwardKL, TopK
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.signal.cached import (
    as_distributions,
    asked,
    centroids_of,
    layout_of,
    spread_over,
)
from dwt_cli.distill.signal.coding import Layout
from dwt_cli.distill.signal.options import Cached, LikeliestOnly, Sampled, Threshold
from dwt_cli.distill.signal.store import entry_rows, keys_of
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.distill.teacher.targets import DenseLogits, SoftTargets, SparseRows
from dwt_cli.models.checkpoint import open_folder
from dwt_cli.models.options import Head
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Batch, Place

_BLOCKS_AT_ONCE = 16
_SOFT = Weights(0.0, 1.0)
LABELS = (0.0, 0.25, 1.0)
"""Weights of the labels' loss beside a soft loss of weight 1: without it, and as runs have it."""


def batches(corpus: Corpus, num_rows: int) -> Iterator[Batch]:
    """Yield the first blocks of a text, as many as have so many targets."""
    num_blocks = math.ceil(num_rows / (corpus.train.block_length - 1))
    for start in range(0, num_blocks, _BLOCKS_AT_ONCE):
        numbers = np.arange(start, min(start + _BLOCKS_AT_ONCE, num_blocks))
        places = [Place(int(number), 0, int(number)) for number in numbers]
        yield NextToken().batch(corpus.train[numbers], 0, places)


def cached_of(
    signal: ModelSignal, batch: Batch, cached: Cached, layout: Layout, centroids: Tensor | None
) -> tuple[SparseRows, int]:
    """Return what is cached of an answer, as it comes back, and its bytes."""
    its = centroids if cached.num_shared else None
    blocks = list(asked(signal, batch, keys_of(batch, ""), cached, layout, 1.0, its))
    contents, nums = [block.content for block in blocks], [block.num_rows for block in blocks]
    whole = layout.decode(contents, nums)
    size = sum(len(block.content) for block in blocks)
    return SparseRows(entry_rows(whole, layout), layout.vocab_size, its), size


def bytes_per_row(
    signal: ModelSignal, texts: list[Batch], cached: Cached, vocab: int, centroids: Tensor
) -> float:
    """Return them with their index, in a vocabulary of some size."""
    layout = layout_of(cached, vocab)
    sizes = [cached_of(signal, batch, cached, layout, centroids)[1] for batch in texts]
    index = 16 * sum(len(batch.ids_BL) for batch in texts)
    return (sum(sizes) + index) / sum(len(batch.labels_N) for batch in texts)


def variance(signal: ModelSignal, texts: list[Batch], cached: Cached, centroids: Tensor) -> float:
    """Return the trace of a target's variance, mean over rows, by one draw of each."""
    total, num_rows = 0.0, 0
    for batch in texts:
        t_NV = signal(batch).targets.dense().softmax(-1)
        layout = layout_of(cached, t_NV.shape[1])
        entries = cached_of(signal, batch, cached, layout, centroids)[0].entries
        found_NV = torch.zeros_like(t_NV).scatter_add_(1, entries.ids_CK, entries.weights_CK)
        if entries.centroids_C1 is not None and entries.shares_C1 is not None:
            found_NV += entries.shares_C1 * centroids[entries.centroids_C1[:, 0]]
        total += (found_NV - t_NV).square().sum().item()
        num_rows += len(t_NV)
    return total / num_rows


def gradient(
    student: LanguageModel,
    told: list[tuple[Batch, SoftTargets]],
    of: Divergence,
    weights: Weights = _SOFT,
) -> Tensor:
    """Return the gradient of all of a student's weights for eq. 3 of all rows, flat."""
    student.zero_grad()
    for batch, targets in told:
        sums = DistillationSums(targets, batch.labels_N, weights, Comparison({"it": of}))
        student(*batch.inputs, Want(False, loss=sums)).loss.total.backward()
    parts = [each.grad.flatten() for each in student.parameters() if each.grad is not None]
    return torch.cat(parts).double()


def angle(one: Tensor, other: Tensor) -> float:
    """Return the angle between two vectors, in degrees."""
    cosine = one @ other / one.norm() / other.norm()
    return math.degrees(math.acos(min(1.0, cosine.item())))


def centroids_for(signal: ModelSignal, corpus: Corpus, cached: Cached) -> Tensor:
    """Return those that a run would find: of blocks that are spread over the text."""
    count = math.ceil(2048 / (corpus.train.block_length - 1))
    count = min(count, len(corpus.train))
    shown = spread_over(corpus.train, NextToken(), count, _BLOCKS_AT_ONCE)
    return as_distributions(centroids_of(signal, shown, cached, 1.0))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", nargs="+", type=Path, required=True)
    parser.add_argument("--student", nargs="*", type=Path, default=[])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--targets", type=int, default=10_000_000, help="that share centroids")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--entries", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=32768, help="for the bits of an id")
    given = parser.parse_args()
    corpus = Corpus.open(given.corpus)
    texts = list(batches(corpus, given.rows))
    opened = {path: open_folder(path, Head.causal) for path in {*given.teacher, *given.student}}
    models = {path: LanguageModel(model, torch.float32) for path, model in opened.items()}
    plain, threshold = (Threshold(given.entries, num_centroids=number) for number in (0, 32))
    rows = [["teacher", "entropy", "cached", "entries", "bytes a target"]]
    rows[0] += [f"with centroids, over {given.targets:,} targets", "variance / threshold's"]
    chosen: dict[Path, dict[str, Cached]] = {}
    shared: dict[Path, Tensor] = {}
    for number, path in enumerate(given.teacher, 1):
        signal = ModelSignal(models[path])
        shared[path] = centroids_for(signal, corpus, threshold)

        def size(cached: Cached, few: bool = False) -> float:
            read = texts[:1] if few else texts
            return bytes_per_row(signal, read, cached, given.vocab_size, shared[path])  # noqa: B023

        chosen[path] = {"threshold": threshold, "threshold, no centroids": plain}
        most = size(threshold, few=True)
        for name, kind in (("sampled", Sampled), ("top_k", LikeliestOnly)):
            entries = 1
            while size(kind(entries + 1), few=True) <= most:
                entries += 1
            chosen[path][name] = kind(entries)
        t = [signal(batch).targets.dense().softmax(-1) for batch in texts]
        entropy = -torch.cat([each.xlogy(each).sum(-1) for each in t]).mean()
        least = variance(signal, texts, threshold, shared[path])
        for name, cached in chosen[path].items():
            ratio = variance(signal, texts, cached, shared[path]) / least
            of_it = f"{ratio:.2f}" if name != "top_k" else ""  # its error is no variance
            known = [str(number), f"{entropy:.2f}", name, str(cached.num_entries)]
            alone, file = size(cached), 2 * cached.num_shared * given.vocab_size  # in fp16
            rows.append([*known, f"{alone:.2f}", f"{alone + file / given.targets:.2f}", of_it])
    print("\n".join(table(rows[0], rows[1:])))
    path = given.teacher[0]
    signal = ModelSignal(models[path])
    dense = [(batch, DenseLogits(signal(batch).targets.dense())) for batch in texts]
    students = [models[place].train().requires_grad_(True) for place in given.student]
    exact = [gradient(student, list(dense), ForwardKL()) for student in students]
    hard = [gradient(student, list(dense), ForwardKL(), Weights(1.0, 0.0)) for student in students]
    rows = []
    for name, cached in chosen[path].items():
        top_k = name == "top_k"
        of = TopK(k=cached.num_entries) if top_k else ForwardKL()
        found: list[list[list[float]]] = [[] for _ in students]
        for draw in range(1 if top_k else given.draws):
            one = replace(cached, seed=draw)
            layout = layout_of(one, corpus.report["vocabulary"])
            told = [
                (batch, cached_of(signal, batch, one, layout, shared[path])[0]) for batch in texts
            ]
            for student, its, of_labels, angles in zip(students, exact, hard, found, strict=True):
                soft = gradient(student, list(told), of)
                angles.append([angle(of_labels * w + its, of_labels * w + soft) for w in LABELS])
        for number, angles in enumerate(found, 1):
            means = [f"{mean:.2f}" for mean in np.mean(angles, 0)]
            rows.append([str(number), name, str(cached.num_entries), *means])
    head = [f"degrees, {1 / w:g} soft to 1 hard" if w else "degrees, soft loss" for w in LABELS]
    print("\n" + "\n".join(table(["student", "cached", "entries", *head], sorted(rows))))


if __name__ == "__main__":
    main()
