"""What is read ahead is what would have been read, and is there before it is asked for."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from dwt_cli.training.loop import Prefetch, Training
from tests.training.conftest import Watcher


def test_the_next_part_is_made_before_it_is_asked_for() -> None:
    made: list[tuple[int, int]] = []
    second = threading.Event()

    def make(step: int, part: int) -> tuple[int, int]:
        made.append((step, part))
        if len(made) == 2:
            second.set()
        return step, part

    ahead = Prefetch(make, range(2, 4))
    assert ahead(5, 2) == (5, 2)
    assert second.wait(30), "nobody has asked for it yet"
    asked = [(5, 3), (6, 2), (6, 3), (7, 2)]
    assert [ahead(*place) for place in asked] == asked
    assert ahead(1, 3) == (1, 3), "after a jump"
    assert made[: len(asked) + 1] == [(5, 2), *asked], "each once, in turn"


def test_its_error_is_the_steps_that_needs_it() -> None:
    def make(step: int, part: int) -> int:
        if step == 2:
            raise OSError("the shard is gone")
        return step

    ahead = Prefetch(make, range(1))
    assert [ahead(0, 0), ahead(1, 0)] == [0, 1]
    with pytest.raises(OSError, match="the shard is gone"):
        ahead(2, 0)


def test_a_training_read_ahead_is_the_same(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for prefetches in (False, True):
        seen = Watcher()
        made = training(num_parts=2, observer=seen, folder=str(prefetches))
        monkeypatch.setattr(Training, "prefetches", prefetches)
        replace(made).run()
        losses[prefetches] = seen.losses()
    assert losses[True] == losses[False]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_cuda(training: Callable[..., Training], compiled: bool) -> None:
    """Pinned, read ahead, with the fused optimiser: the losses of the CPU, to rounding."""
    expected, seen, device = Watcher(), Watcher(), torch.device("cuda", 0)
    training(observer=expected, folder="cpu").run()
    made = training(observer=seen, folder="cuda", device=device, compiled=compiled)
    assert made.prefetches
    made.run()
    assert seen.losses() == pytest.approx(expected.losses(), rel=1e-4)
