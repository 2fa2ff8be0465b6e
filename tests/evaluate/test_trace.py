"""Attribution against slow, obvious versions of itself."""

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from dwt_cli.base.cache import Cache
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate import trace
from dwt_cli.evaluate.queries import Query, Said
from dwt_cli.evaluate.trace import Derivatives, Products, Text, bm25, debiased, places_of
from dwt_cli.evaluate.trace_page import BlockTexts, Trace, marked, write_page, write_scores
from dwt_cli.models.checkpoint import save_model
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.options import CausalLM, MaskedLM, Task
from dwt_cli.tasks.task import Batch

CPU = torch.device("cpu")
Tiny = Callable[..., Architecture]
IDS = (2, 17, 4, 30, 21, 3)
QUERY = Query("", "", "", Said(IDS, (2, 4), (40, 41)), Said(IDS, (2,), (50,)))


def a_model(tiny: Tiny, family: str) -> PreTrainedModel:
    """Return a model whose attention is sharp, and that drops out unless it is told not to."""
    model = make_model(tiny(family, dropout=0.3), 0, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def text_of(corpus: Corpus, task: Task, steps: int = 5, visits: int = 2) -> Text:
    batches = TrainBatches(corpus.train, task.targets(corpus.tokenizer), 32, 0, "student")
    return Text(task, batches, places_of(batches, range(steps), visits), visits, "text")


def slow_loss(model: PreTrainedModel, ids: list[int], rows: list[int], labels: list[int]) -> Tensor:
    logits_LV = model(torch.tensor([ids])).logits[0]
    return F.cross_entropy(logits_LV[rows], torch.tensor(labels), reduction="sum")


def slow_products(model: PreTrainedModel, query: Query, batch: Batch) -> list[float]:
    """Return dot products of whole gradients, block by block, without the project's own forward."""
    parameters = list(model.eval().parameters())

    def gradient(loss: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    said, other = (slow_loss(model, *map(list, side)) for side in (query.said, query.other) if side)
    ours, found = gradient(said - other), []
    length = batch.ids_BL.shape[1]
    for number, ids in enumerate(batch.ids_BL.tolist()):
        chosen = [n for n, row in enumerate(batch.rows_N.tolist()) if row // length == number]
        rows = [batch.rows_N[n].item() % length for n in chosen]
        labels = [batch.labels_N[n].item() for n in chosen]
        theirs = gradient(slow_loss(model, ids, rows, labels) / len(rows))
        pairs = zip(ours, theirs, strict=True)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        found.append(sum((a * b).sum().item() for a, b in known))
    return found


@pytest.mark.parametrize(
    ("family", "task"),
    [("bert", MaskedLM()), ("modernbert", MaskedLM()), ("qwen3", CausalLM()), ("gpt2", CausalLM())],
)
def test_derivatives_along_a_query_are_products_of_whole_gradients(
    tiny: Tiny, corpus: Corpus, family: str, task: Task
) -> None:
    text = text_of(corpus, task)
    batch = text.batches.of(text.places[:5])
    derivatives = Derivatives(LanguageModel(a_model(tiny, family), torch.float32), CPU)
    loss, direction = derivatives.gradient(QUERY)
    found = derivatives.along(direction, batch)
    slow = a_model(tiny, family).eval()
    expected = slow_products(slow, QUERY, batch)
    assert max(map(abs, expected)) > 0.1
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert QUERY.other is not None
    sides = [slow_loss(slow, *map(list, side)) for side in (QUERY.said, QUERY.other)]
    assert loss == pytest.approx((sides[0] - sides[1]).item(), rel=1e-5)


def test_documents_that_are_separated_are_so_here(tiny: Tiny, corpus: Corpus) -> None:
    model, query = a_model(tiny, "qwen3"), QUERY
    end = corpus.tokenizer.sep_token_id
    batches = [
        TrainBatches(corpus.train, NextToken(mark_id), 4, 0, "student").batch(0)
        for mark_id in (None, end)
    ]
    derivatives = Derivatives(LanguageModel(model, torch.float32), CPU)
    _, direction = derivatives.gradient(query)
    apart, together = (derivatives.along(direction, batch) for batch in reversed(batches))
    assert batches[1].documents_BL is not None
    assert not torch.allclose(apart, together, rtol=1e-2)


def test_a_contrast_is_the_difference_of_its_sides(tiny: Tiny, corpus: Corpus) -> None:
    text = text_of(corpus, MaskedLM())
    batch = text.batches.of(text.places[:6])
    model = Derivatives(LanguageModel(a_model(tiny, "bert"), torch.float32), CPU)
    assert QUERY.other is not None
    sides = (QUERY, *(Query("", "", None, side, None) for side in (QUERY.said, QUERY.other)))
    both, said, other = (model.along(model.gradient(each)[1], batch) for each in sides)
    assert torch.allclose(both, said - other, rtol=1e-3, atol=1e-4)


def test_a_positive_product_lowers_the_querys_loss(tiny: Tiny, corpus: Corpus) -> None:
    """By a step of plain gradient descent on each block."""
    text = text_of(corpus, MaskedLM())
    batch = text.batches.of(text.places[:4])
    model = a_model(tiny, "modernbert")
    derivatives = Derivatives(LanguageModel(model, torch.float32), CPU)
    before, direction = derivatives.gradient(QUERY)
    products = derivatives.along(direction, batch).tolist()
    for number, product in enumerate(products):
        stepped, one = a_model(tiny, "modernbert").eval(), batch.taken([number])
        logits_NV = LanguageModel(stepped, torch.float32)(*one.inputs).logits_NV
        F.cross_entropy(logits_NV, one.labels_N).backward()
        rate = 1e-4
        with torch.no_grad():
            for parameter in stepped.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
        after, _ = Derivatives(LanguageModel(stepped, torch.float32), CPU).gradient(QUERY)
        assert (before - after) / rate == pytest.approx(product, rel=0.2, abs=1)


def test_places_are_those_at_which_a_training_has_read_a_block(corpus: Corpus) -> None:
    steps, visits = 2 * math.ceil(len(corpus.train) / 32), 2
    text = text_of(corpus, MaskedLM(), steps, visits)
    seen: dict[int, list[tuple[int, ...]]] = {}
    for step in range(steps):
        for place in text.batches.batch(step).places_B3.tolist():
            seen.setdefault(place[0], []).append(tuple(place))
    expected = [place for block in sorted(seen) for place in seen[block][:visits]]
    assert [tuple(place) for place in text.places] == expected
    assert text.blocks_B.tolist() == sorted(seen)
    assert max(map(len, seen.values())) > visits
    read = text.batches.batch(3)
    again = text.batches.of(text.batches.places(3))
    assert torch.equal(read.ids_BL, again.ids_BL)


def test_a_block_has_the_mean_of_its_visits(corpus: Corpus) -> None:
    steps = math.ceil(1.5 * len(corpus.train) / 32)
    text = text_of(corpus, MaskedLM(), steps, 2)
    values = np.random.default_rng(0).normal(size=len(text.places))
    by_block: dict[int, list[float]] = {}
    for place, value in zip(text.places, values, strict=True):
        by_block.setdefault(place.block, []).append(value)
    assert {len(each) for each in by_block.values()} == {1, 2}
    expected = [np.mean(by_block[block]) for block in sorted(by_block)]
    assert text.by_block(values) == pytest.approx(expected)


def test_a_stopped_trace_goes_on_and_kept_products_are_not_computed_again(
    tiny: Tiny, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(corpus, MaskedLM())
    save_model(a_model(tiny, "bert"), corpus.tokenizer, tmp_path / "model")
    monkeypatch.setattr(trace, "_SAVED_EVERY_S", 0.0)
    monkeypatch.setitem(trace._POSITIONS, "cpu", 24 * 30)
    done: list[tuple[int, bool]] = []

    def advance(num_places: int, seconds: float | None) -> None:
        done.append((num_places, seconds is not None))
        if done == [(0, False), (30, True), (30, True)]:
            raise KeyboardInterrupt

    def ask(cache: str) -> np.ndarray:
        of = Products(text, Cache(str(tmp_path / cache), print), CPU, advance)
        return of.at(tmp_path / "model", [QUERY])[0]

    with pytest.raises(KeyboardInterrupt):
        ask("stopped")
    shutil.copytree(tmp_path / "stopped", tmp_path / "damaged")
    done.append((0, False))
    found = ask("stopped")
    rest = done[4:]
    assert rest[0] == (30, False) and sum(num for num, _ in rest) == len(text.places)
    done.append((0, False))
    whole = ask("other")
    assert found == pytest.approx(whole)
    (begun,) = (tmp_path / "damaged").glob("products/*.partial/begun")
    content = bytearray(begun.read_bytes())
    content[-1] ^= 1
    begun.write_bytes(content)
    count = len(done)
    assert ask("damaged") == pytest.approx(whole)
    assert done[count] == (0, False)
    count = len(done)
    assert ask("other") == pytest.approx(whole)
    assert done[count:] == [(len(text.places), False)]


def test_debiased_is_the_mean_of_later_moments_less_the_start() -> None:
    products_QSB = np.array([[[1.0, 2], [5, 7], [9, 1]]])
    assert debiased(products_QSB, 1, raw=True).tolist() == [[7 - 1, 4 - 2]]
    assert debiased(products_QSB, 0, raw=True).tolist() == [[7, 4]]
    assert debiased(products_QSB, 0.5, raw=True).tolist() == [[6.5, 3]]
    start, first, second = (row / math.sqrt(np.mean(row**2)) for row in products_QSB[0])
    expected = (first + second) / 2 - 0.5 * start
    assert debiased(products_QSB, 0.5)[0] == pytest.approx(expected)
    assert debiased(np.zeros((1, 3, 2)), 1).tolist() == [[0, 0]]


def test_bm25_against_its_formula_word_by_word() -> None:
    texts = ["The cat sat. The cat slept", "a dog sat", "the dog, the cat and the bird", "nothing"]
    queries, k1, b = ["the cat cat", "dog zebra"], 1.5, 0.75
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, split)) / len(split)
    expected = []
    for query in queries:
        row = [0.0] * len(texts)
        for word in query.split():
            num = sum(word in words for words in split)
            weight = math.log(1 + (len(texts) - num + 0.5) / (num + 0.5))
            for n, words in enumerate(split):
                count = words.count(word)
                longer = k1 * (1 - b + b * len(words) / mean)
                row[n] += weight * count * (k1 + 1) / (count + longer)
        expected.append(row)
    assert bm25(texts, queries) == pytest.approx(np.array(expected))


def a_trace(documents: list[list[str]] | None) -> Trace:
    texts = ["<script>alert(1)</script> one box", "a Cup & two", "three cups"]
    query = Query("<b>it</b> is a [MASK]", "box", "cup", QUERY.said, QUERY.other)
    products_QSB = np.array([[[1.0, 1, 1], [3, 0, 1], [5, 1, 1]]])
    blocks = BlockTexts(texts, documents)
    losses_QS = np.array([[0.5, 0, -0.25]])
    return Trace(
        "<run>",
        [query],
        [0, 0.5, 1],
        1.0,
        True,
        2,
        np.array([3, 5, 8]),
        blocks,
        products_QSB,
        losses_QS,
    )


def test_a_page_shows_blocks_and_escapes_all(tmp_path: Path) -> None:
    write_page(a_trace([["<i>.txt"], ["b"], ["c"]]), 2, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"<(script|run|i>|b>it)", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; one" in page and "&lt;i&gt;.txt" in page
    assert '<mark class="answer">box</mark>' in page and '<mark class="instead">Cup</mark>' in page
    assert "three cups" not in page  # its score is 0: neither for nor against
    assert page.index("one <mark") < page.index("Against it") < page.index("&amp; two")
    assert [cell in page for cell in ("-0.50", "+0.00", "+0.25")] == [True] * 3
    assert "would rather say" not in page
    unsaid = replace(a_trace(None), losses_QS=np.array([[0.5, 0, 0.25]]))
    write_page(unsaid, 2, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "documents unknown" in page and "would rather say the other" in page


def test_the_table_has_every_block_in_the_order_of_its_score(tmp_path: Path) -> None:
    write_scores(a_trace([["a,b", 'c"'], ["d"], ["e"]]), tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    names = "query,block,dda,product,bm25,product_at_0,product_at_0.5,product_at_1,documents"
    assert lines[0] == names
    assert [line.split(",")[:4] for line in lines[1:]] == [
        ["1", "3", "3.0", "5.0"],
        ["1", "8", "0.0", "1.0"],
        ["1", "5", "-0.5", "1.0"],
    ]


def test_words_of_a_query_are_marked_whole() -> None:
    query = Query("", "box", None, QUERY.said, None)
    parts = list(marked("Box, boxes (box) a.b", query))
    assert "".join(part for part, _ in parts) == "Box, boxes (box) a.b"
    assert [part for part, kind in parts if kind == "answer"] == ["Box", "box"]
