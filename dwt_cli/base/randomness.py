"""Randomness as a pure function of (seed, purpose, step, sample): no hidden generator state."""

import hashlib

import numpy as np


def seed_for(*parts: int | str) -> int:
    """Return a 63-bit seed for a purpose, e.g. ``seed_for(run.seed, "student", "weights")``."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *place: int) -> np.random.Generator:
    """Return the generator of one place (at most 3 counters, e.g. step, sample) under a seed.

    Philox is counter-based: any place is reached at once, and streams of up to 2**64 numbers do
    not overlap.
    """
    counter = [0, *place, *[0] * (3 - len(place))]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))
