import numpy as np

from dwt_cli.base.randomness import generator, seed_for


def test_a_seed_is_of_its_parts_alone() -> None:
    assert seed_for(0, "student", "weights") == 4201592965926869358
    seeds = {
        seed_for(*parts)
        for parts in [
            (0, "student", "weights"),
            (1, "student", "weights"),
            (0, "teacher", "weights"),
            (0, "student", "masks"),
            ("student", 0, "weights"),
            (0, "student"),
        ]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_place_is_reached_at_once_and_always_the_same() -> None:
    first = generator(7, 3, 5).random(100)
    generator(7, 3, 4).random(1000)
    np.testing.assert_array_equal(generator(7, 3, 5).random(100), first)


def test_places_and_seeds_have_streams_of_their_own() -> None:
    streams = [
        generator(seed, *place).random(500)
        for seed in (0, 1)
        for place in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 1)]
    ]
    numbers = np.concatenate(streams)
    assert len(np.unique(numbers)) == numbers.size
    correlations = np.corrcoef(np.stack(streams)) - np.eye(len(streams))
    assert np.abs(correlations).max() < 5 / np.sqrt(500)
