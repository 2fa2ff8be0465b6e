"""A command gives the identities that it gave: what was computed under them is found again."""

from collections.abc import Iterator

import pytest

from tests.golden import commands
from tests.golden.identities import identities, kept, pinned

KEPT = kept()
BY_DEFAULT = [
    *commands.MIXTURES,
    *commands.every_choice(),
    *commands.other_arms(),
    *commands.few_recorded(),
]


@pytest.fixture(scope="module", autouse=True)
def everything_else_pinned() -> Iterator[None]:
    with pinned():
        yield


@pytest.mark.parametrize("words", BY_DEFAULT)
def test_a_command_gives_the_identities_it_gave(words: str) -> None:
    assert identities(words) == KEPT[words]


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in KEPT if words not in BY_DEFAULT])
def test_so_does_every_command_on_record(words: str) -> None:
    assert identities(words) == KEPT[words]


def test_every_command_is_kept_and_no_other() -> None:
    assert list(KEPT) == commands.every()


def test_runs_that_were_one_on_record_are_one_and_others_are_not() -> None:
    on_record = commands.recorded()
    pairs = {(identity, KEPT[words]["run"]) for words, identity in on_record.items()}
    assert len(on_record) == 206
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}) == 126
