"""Which blocks are chosen, against loops over them, and what a batch is then made of."""

from collections.abc import Sequence

import numpy as np
import pytest

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.order import Chosen, Difference, Learnable, RandomBlocks
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.mlm import Masking

NUM_BLOCKS = 37
CHOICES = [RandomBlocks(0.3), Difference(0.3), Learnable(0.3)]


def losses(num_models: int, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.gamma(3.0, size=(NUM_BLOCKS, 2)) for _ in range(num_models)]


def models_of(options: Chosen) -> int:
    return {RandomBlocks: 0, Difference: 2, Learnable: 1}[type(options)]


def slowly(options: Chosen, of: Sequence[np.ndarray]) -> set[int]:
    """The best ones, taken one by one."""
    left, count = list(range(NUM_BLOCKS)), options.num_chosen(NUM_BLOCKS)
    if isinstance(options, Learnable):  # out go the lowest and the highest, in turn
        left.sort(key=lambda block: of[0][block, 1])
        while len(left) > count:
            left.pop(0 if (NUM_BLOCKS - len(left)) % 2 else -1)
        return set(left)
    ahead = {block: of[1][block, 0] - of[0][block, 0] for block in left}
    return {left.pop(left.index(max(left, key=ahead.__getitem__))) for _ in range(count)}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
@pytest.mark.parametrize("kind", [Difference, Learnable])
def test_the_blocks_with_the_highest_scores(kind: type[Chosen], share: float) -> None:
    options, of = kind(share), losses(models_of(kind()))
    found = options.choose(of, NUM_BLOCKS, seed=3)
    assert len(found) == max(1, round(share * NUM_BLOCKS)) and (np.diff(found) > 0).all()
    expected = slowly(options, of)
    if isinstance(options, Learnable) and (NUM_BLOCKS - len(expected)) % 2:
        assert len(expected - {*found.tolist()}) <= 1, "the one at either end may be left out"
    else:
        assert {*found.tolist()} == expected
    assert (options.choose(of, NUM_BLOCKS, seed=4) == found).all() or kind is Learnable


@pytest.mark.parametrize("options", CHOICES, ids=lambda each: type(each).__name__)
def test_ties_are_drawn_by_the_seed(options: Chosen) -> None:
    """Of blocks that are alike every one comes to be chosen, as often as another."""
    alike = [np.ones((NUM_BLOCKS, 2))] * models_of(options)
    chosen = [options.choose(alike, NUM_BLOCKS, seed) for seed in range(300)]
    again = options.choose(alike, NUM_BLOCKS, 0)
    assert np.array_equal(again, chosen[0]) and not np.array_equal(chosen[0], chosen[1])
    counts = np.bincount(np.concatenate(chosen), minlength=NUM_BLOCKS)
    assert counts.min() > 300 * 0.3 * 0.6 and counts.max() < 300 * 0.3 * 1.5


def test_a_part_of_the_text_is_all_there_is(corpus: Corpus, masking: Masking) -> None:
    numbers = np.array([7, 3, 20, 11, 5])
    part = corpus.train.part(numbers)
    assert len(part) == 5 and part.num_bytes(5) is None
    assert np.array_equal(part[np.array([4, 0, 0])], corpus.train[np.array([5, 7, 7])])
    assert np.array_equal(
        part.part(np.array([2, 1]))[np.array([0, 1])], corpus.train[numbers[2:0:-1]]
    )
    batches = TrainBatches(part, masking, 4, 0, "student")
    read = [batches.batch(step).places_B3[:, 0].tolist() for step in range(5)]
    each = sorted(block for of_step in read for block in of_step)
    assert each == sorted([*range(5)] * 4), "each epoch has each of them"
    halves = [batches.batch(1, number, 2).ids_BL for number in range(2)]
    assert np.array_equal(np.concatenate(halves), batches.batch(1).ids_BL)
