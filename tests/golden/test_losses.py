"""Miniatures in double precision have the losses that they had, to 1e-9."""

from pathlib import Path

import pytest

from tests.golden import miniatures
from tests.golden.losses import COMPOSITIONS, kept, losses

KEPT = kept()
SLOW = {
    "hidden, micro-batches",
    "mse and let, gate, dropout",
    "paper",
    "net2net",
    "a budget and a temperature",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("losses")
    miniatures.prepare(place)
    return place


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMPOSITIONS],
)
def test_a_miniature_has_the_losses_it_had(folder: Path, name: str) -> None:
    found = losses(folder, name)
    assert found.keys() == KEPT[name].keys()
    for metric, before in KEPT[name].items():
        assert found[metric] == pytest.approx(before, rel=1e-9, abs=1e-12), metric


def test_no_miniature_is_left_out() -> None:
    assert KEPT.keys() == COMPOSITIONS.keys()
