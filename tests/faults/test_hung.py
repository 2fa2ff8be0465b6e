"""Servers that hang, refuse or drip, once each."""

from pathlib import Path

import pytest

from tests.faults import hung


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_ends_as_if_nobody_had_been_asked(tmp_path: Path) -> None:
    found = list(hung.answers(1, tmp_path))
    assert {each.name for each in found} == hung.PLACES.keys()
    assert [each for each in found if each.wrong] == []
