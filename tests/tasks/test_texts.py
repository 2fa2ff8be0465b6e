import numpy as np
import pytest

from dwt_cli.tasks.task import HELDOUT
from dwt_cli.tasks.texts import BucketedBatches, Texts


def texts(num_texts: int = 1000, pairs: bool = False) -> Texts:
    """Every text has its number as its only token, as often as it is long."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 90, size=num_texts)
    rows = [[number + 1] * int(length) for number, length in enumerate(lengths)]
    return Texts(
        rows,
        [[0, *[int(pairs)] * (len(row) - 1)] for row in rows],
        np.arange(num_texts),
        pad_id=0,
    )


def seen(batches: BucketedBatches, epoch: int) -> list[int]:
    steps = int(batches.steps_per_epoch)
    found = [batches.batch(epoch * steps + step).labels_N.tolist() for step in range(steps)]
    return [number for batch in found for number in batch]


def test_an_epoch_has_every_text_once_but_those_that_fill_no_batch() -> None:
    batches = BucketedBatches(texts(), 16, seed=0, purpose="test")
    first, second = seen(batches, 0), seen(batches, 1)
    assert len(set(first)) == len(first) == 1000 // 16 * 16
    assert set(first) != set(second)
    assert first != second


def test_a_step_is_the_same_for_whoever_asks() -> None:
    batches = BucketedBatches(texts(), 16, seed=0, purpose="test")
    labels = batches.batch(70).labels_N.tolist()
    assert BucketedBatches(texts(), 16, 0, "test").batch(70).labels_N.tolist() == labels
    assert BucketedBatches(texts(), 16, 1, "test").batch(70).labels_N.tolist() != labels
    assert BucketedBatches(texts(), 16, 0, "other").batch(70).labels_N.tolist() != labels
    parts = [batches.batch(70, part, 4).labels_N.tolist() for part in range(4)]
    assert [label for part in parts for label in part] == labels


def test_a_text_has_its_place_however_a_batch_is_split() -> None:
    batches = BucketedBatches(texts(), 16, seed=0, purpose="test")
    whole = batches.batch(70)
    places = [batches.batch(70, part, 4).places_B3.tolist() for part in range(4)]
    assert [place for part in places for place in part] == whole.places_B3.tolist()
    wanted = [[number, 70, sample] for sample, number in enumerate(whole.labels_N.tolist())]
    assert whole.places_B3.tolist() == wanted
    heldout = texts().batch(np.array([4, 2])).places_B3.tolist()
    assert heldout == [[4, HELDOUT, 4], [2, HELDOUT, 2]]


def test_padding_is_what_the_mask_says_and_little() -> None:
    batches = BucketedBatches(texts(), 16, seed=0, purpose="test")
    masks = [
        batches.batch(step).named["attention_mask"] for step in range(int(batches.steps_per_epoch))
    ]
    share = 1 - sum(m.sum().item() for m in masks) / sum(m.numel() for m in masks)
    assert batches.padding == pytest.approx(share)
    assert share < 0.15


def test_a_batch_has_the_texts_and_nothing_else() -> None:
    some = texts(5, pairs=True)
    batch = some.batch(np.array([3, 1])).named
    for row, number in enumerate((3, 1)):
        length = len(some.ids[number])
        padding = [0] * (batch["input_ids"].shape[1] - length)
        assert batch["input_ids"][row].tolist() == [*some.ids[number], *padding]
        assert batch["attention_mask"][row].sum() == length
        assert batch["token_type_ids"][row].sum() == length - 1


def test_fewer_texts_than_a_batch_are_one_batch() -> None:
    batches = BucketedBatches(texts(5), 16, seed=0, purpose="test")
    assert (batches.batch_size, batches.num_targets(0), batches.steps_per_epoch) == (5, 5, 1)


def test_by_length_has_all_of_them() -> None:
    numbers = np.concatenate(list(texts(50).by_length(7)))
    assert sorted(numbers.tolist()) == list(range(50))
