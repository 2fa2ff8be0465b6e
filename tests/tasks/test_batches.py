"""batch(step): the same for everyone, any part of it, and BERT's masking."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dwt_cli.base.randomness import generator
from dwt_cli.data.pack import Blocks, write_blocks
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.tasks.task import HELDOUT, Batch, Place

L, V, NUM_BLOCKS = 32, 500, 46
CLS, SEP, MASK = 2, 3, 4
SPECIAL = (0, 1, 2, 3, 4)
MASKING = Masking(MaskedLM(), V, MASK, SPECIAL)
NUM_TARGETS = round(0.15 * (L - 1))


def write(folder: Path) -> Blocks:
    """Blocks whose second token is their number; a [SEP] here and there."""
    ids = np.random.default_rng(0).integers(5, V, size=(NUM_BLOCKS, L))
    ids[:, 0] = CLS
    ids[:, 2] = np.arange(NUM_BLOCKS) + 5
    ids[:, 9::10] = SEP
    write_blocks(ids.tolist(), folder, V, len(ids))
    return Blocks(folder)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    return write(tmp_path_factory.mktemp("batches") / "blocks")


def source(
    blocks: Blocks, seed: int = 0, purpose: str = "student", batch_size: int = 8
) -> TrainBatches:
    return TrainBatches(blocks, MASKING, batch_size, seed, purpose)


def places(num_samples: int) -> list[Place]:
    return [Place(0, 1, sample) for sample in range(num_samples)]


def restored(batch: Batch) -> torch.Tensor:
    """The blocks before masking."""
    flat = batch.ids_BL.flatten().clone()
    flat[batch.rows_N] = batch.labels_N
    return flat.view_as(batch.ids_BL)


def digest(batch: Batch) -> str:
    whole = b"".join(t.numpy().tobytes() for t in (batch.ids_BL, batch.rows_N, batch.labels_N))
    return hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("num_parts", [2, 4, 8])
@pytest.mark.parametrize("step", [0, 5, 11])  # step 5 of 46 / 8 ends one epoch and begins another
def test_parts_are_the_whole_batch(blocks: Blocks, num_parts: int, step: int) -> None:
    whole = source(blocks).batch(step)
    parts = [source(blocks).batch(step, part, num_parts) for part in range(num_parts)]
    assert [len(part.ids_BL) for part in parts] == [8 // num_parts] * num_parts
    assert torch.equal(torch.cat([part.ids_BL for part in parts]), whole.ids_BL)
    assert torch.equal(torch.cat([part.labels_N for part in parts]), whole.labels_N)
    shifts = [part * L * 8 // num_parts for part in range(num_parts)]
    rows = [part.rows_N + shift for part, shift in zip(parts, shifts, strict=True)]
    assert torch.equal(torch.cat(rows), whole.rows_N)


def test_pure_whatever_was_asked_before(blocks: Blocks) -> None:
    first = source(blocks)
    expected = digest(first.batch(7))
    for step in (100, 0, 6, 8):
        first.batch(step, 1, 2)
        np.random.random(5)
        torch.rand(5)
    assert digest(first.batch(7)) == digest(source(blocks).batch(7)) == expected


@pytest.mark.slow
def test_pure_in_any_process(blocks: Blocks, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.tasks.test_batches import *; "
        "print(digest(source(write(Path(sys.argv[1]))).batch(7)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "blocks")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    ).stdout.strip()
    assert there == digest(source(blocks).batch(7))


def test_an_epoch_visits_every_block_once_in_an_order_of_its_own(blocks: Blocks) -> None:
    batches = source(blocks, batch_size=8)
    num_steps = 3 * NUM_BLOCKS // 8 + 1
    numbers = torch.cat([restored(batches.batch(step))[:, 2] for step in range(num_steps)]) - 5
    epochs = [numbers[i * NUM_BLOCKS : (i + 1) * NUM_BLOCKS].tolist() for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM_BLOCKS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0])
    assert batches.steps_per_epoch == NUM_BLOCKS / 8
    assert batches.tokens_per_step == 8 * L


def test_the_blocks_are_those_on_disk(blocks: Blocks) -> None:
    batch = source(blocks).batch(3)
    numbers = restored(batch)[:, 2].numpy() - 5
    np.testing.assert_array_equal(restored(batch).numpy(), blocks[numbers])


@pytest.mark.parametrize(("seed", "purpose"), [(1, "student"), (0, "teacher")])
def test_another_seed_or_purpose_has_other_blocks_and_masks(
    blocks: Blocks, seed: int, purpose: str
) -> None:
    ours, theirs = source(blocks), source(blocks, seed, purpose)
    assert any(
        not torch.equal(restored(ours.batch(s)), restored(theirs.batch(s))) for s in range(2)
    )
    shared = np.mean(
        [
            len(np.intersect1d(ours.batch(s).rows_N, theirs.batch(s).rows_N))
            / len(ours.batch(s).rows_N)
            for s in range(30)
        ]
    )
    assert shared < 0.25, "masks in the same places by chance alone"


def test_a_block_is_masked_anew_in_each_epoch(blocks: Blocks) -> None:
    batches = source(blocks, batch_size=NUM_BLOCKS)
    masks = []
    for epoch in range(2):
        batch = batches.batch(epoch)
        order = restored(batch)[:, 2].argsort()
        hit = torch.zeros(NUM_BLOCKS * L, dtype=torch.bool)
        hit[batch.rows_N] = True
        masks.append(hit.view(NUM_BLOCKS, L)[order])
    assert (masks[0] & masks[1]).sum() < 0.3 * masks[0].sum()


def test_frozen_patterns_take_turns_by_epoch_whatever_the_seed(blocks: Blocks) -> None:
    masking = Masking(MaskedLM(num_patterns=2), V, MASK, SPECIAL)

    def of_epoch(epoch: int, seed: int, purpose: str) -> dict[int, str]:
        batches = TrainBatches(blocks, masking, NUM_BLOCKS // 2, seed, purpose)
        halves = [batches.batch(2 * epoch + half, n, 23) for half in range(2) for n in range(23)]
        return {int(each.places_B3[0, 0]): digest(each) for each in halves}

    first, second = of_epoch(0, 0, "student"), of_epoch(1, 0, "student")
    assert len(first) == NUM_BLOCKS and all(first[n] != second[n] for n in first)
    assert of_epoch(2, 5, "student") == first and of_epoch(3, 6, "student") == second
    teachers = of_epoch(0, 0, "teacher")
    assert all(teachers[n] not in (first[n], second[n]) for n in first), "it has masks of its own"


def test_a_block_has_the_same_patterns_in_every_part_of_the_text(blocks: Blocks) -> None:
    masking = Masking(MaskedLM(num_patterns=2), V, MASK, SPECIAL)
    parts = [np.arange(NUM_BLOCKS), np.arange(1, NUM_BLOCKS, 3), np.array([7, 4])]
    found = []
    for part in parts:
        batches = TrainBatches(blocks.part(part), masking, len(part), 0, "student")
        each = [batches.batch(0, n, len(part)) for n in range(len(part))]
        found.append({int(part[int(one.places_B3[0, 0])]): digest(one) for one in each})
    whole, third, two = found
    assert {4, 7} == set(two) and third.keys() < whole.keys()
    assert all(whole[n] == mask for n, mask in (third | two).items())


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, Batch]:
    """The masking of many equal blocks of distinct ordinary tokens."""
    num_blocks = 6000
    block = np.concatenate([[CLS], np.arange(100, 100 + L - 2), [SEP]])
    blocks_BL = np.tile(block, (num_blocks, 1))
    return blocks_BL, MASKING.batch(blocks_BL, 5, places(num_blocks))


def test_the_number_of_targets_is_exact_and_none_is_special(many: tuple[np.ndarray, Batch]) -> None:
    blocks_BL, batch = many
    blocks, positions = np.divmod(batch.rows_N.numpy(), L)
    assert (np.bincount(blocks) == NUM_TARGETS).all()
    assert len(np.unique(batch.rows_N)) == len(batch.rows_N)
    assert not {0, L - 1} & set(positions.tolist())
    np.testing.assert_array_equal(batch.labels_N, blocks_BL[blocks, positions])
    np.testing.assert_array_equal(restored(batch), blocks_BL)


def test_positions_are_uniform(many: tuple[np.ndarray, Batch]) -> None:
    counts = np.bincount(many[1].rows_N.numpy() % L, minlength=L)[1:-1]
    _is_uniform(counts)


@pytest.mark.parametrize(("keep", "random"), [(0.1, 0.1), (0.3, 0.0), (0.0, 0.5)])
def test_shares_of_masked_random_and_kept(keep: float, random: float) -> None:
    masking = Masking(MaskedLM(keep_ratio=keep, random_ratio=random), V, MASK, SPECIAL)
    block = np.concatenate([[CLS], np.arange(100, 100 + L - 1)])
    batch = masking.batch(np.tile(block, (4000, 1)), 5, places(4000))
    shown, labels = batch.ids_BL.flatten()[batch.rows_N], batch.labels_N
    count = len(labels)
    ordinary = V - len(SPECIAL)
    for share, found in (
        (1 - keep - random, shown == MASK),
        (keep + random / ordinary, shown == labels),
        (random * (1 - 1 / ordinary), (shown != MASK) & (shown != labels)),
    ):
        assert abs(found.sum().item() - share * count) <= 4.5 * np.sqrt(
            count * share * (1 - share)
        ), share


def test_substitutes_are_uniform_over_ordinary_ids() -> None:
    masking = Masking(MaskedLM(keep_ratio=0.0, random_ratio=1.0), 60, MASK, (0, 1, 2, 3, 4, 59))
    blocks_BL = np.full((6000, L), 7)
    batch = masking.batch(blocks_BL, 5, places(6000))
    counts = np.bincount(batch.ids_BL.flatten()[batch.rows_N], minlength=60)
    assert counts[[0, 1, 2, 3, 4, 59]].sum() == 0
    _is_uniform(counts[5:59])


def _is_uniform(counts: np.ndarray) -> None:
    expected = counts.sum() / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - len(counts)) < 5 * np.sqrt(2 * len(counts))


def test_specials_serve_only_when_there_is_nothing_else() -> None:
    blocks_BL = np.full((50, L), SEP)
    blocks_BL[:, 5 : 5 + NUM_TARGETS - 1] = 77
    batch = MASKING.batch(blocks_BL, 0, places(50))
    assert ((batch.labels_N == 77).view(50, -1).sum(1) == NUM_TARGETS - 1).all()


@pytest.mark.parametrize(
    ("ratio", "length", "expected"),
    [(0.15, 128, 19), (0.15, 64, 9), (0.01, 8, 1), (0.9, 8, 6), (0.9, 512, 460)],
)
def test_number_of_targets(ratio: float, length: int, expected: int) -> None:
    masking = Masking(MaskedLM(mask_ratio=ratio), V, MASK, SPECIAL)
    assert masking.task.num_targets(length) == expected
    block = np.arange(100, 100 + length)[None]
    assert len(masking.batch(block, 0, places(1)).rows_N) == expected


def test_a_batch_knows_its_places(blocks: Blocks) -> None:
    batches = source(blocks)
    whole, part = batches.batch(7), batches.batch(7, 1, 2)
    assert whole.places_B3.dtype == torch.int64
    assert (whole.places_B3[:, 1] == 7).all()
    assert whole.places_B3[:, 2].tolist() == list(range(8))
    assert torch.equal(part.places_B3, whole.places_B3[4:])
    np.testing.assert_array_equal(restored(whole), blocks[whole.places_B3[:, 0].numpy()])
    for batch in HeldoutBatches(blocks, MASKING, 20, 7):
        np.testing.assert_array_equal(restored(batch), blocks[batch.places_B3[:, 0].numpy()])
        assert (batch.places_B3[:, 1] == HELDOUT).all()


def test_what_is_drawn_for_a_place_stays_what_it_was(blocks: Blocks) -> None:
    blocks_BL = np.arange(100, 100 + L)[None]
    for place, counters in ((Place(9, 3, 4), (3, 4)), (Place(9, HELDOUT, 9), (9,))):
        drawn = generator(5, *counters).random(L)[None] + np.isin(blocks_BL, SPECIAL)
        expected = np.sort(np.argpartition(drawn, NUM_TARGETS)[:, :NUM_TARGETS])[0]
        assert MASKING.batch(blocks_BL, 5, [place]).rows_N.tolist() == expected.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_heldout_is_the_first_blocks_under_one_masking(blocks: Blocks, batch_size: int) -> None:
    heldout = HeldoutBatches(blocks, MASKING, 20, batch_size)
    one = HeldoutBatches(blocks, MASKING, 20, 20)
    (whole,) = one
    assert torch.equal(torch.cat([batch.ids_BL for batch in heldout]), whole.ids_BL)
    assert heldout.num_targets == len(whole.labels_N) == 20 * NUM_TARGETS
    np.testing.assert_array_equal(restored(whole), blocks[np.arange(20)])
    few = HeldoutBatches(blocks, MASKING, 10**6, 20)
    assert few.num_targets == NUM_BLOCKS * NUM_TARGETS
