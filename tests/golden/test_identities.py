"""A command gives the identities that it gave: what was computed under them is found again."""

from collections.abc import Iterator

import pytest

from dwt_cli.config.files import SETTINGS, groups, schema
from dwt_cli.config.run import SCHEMAS, SEVERAL
from tests.golden import commands
from tests.golden.identities import OLDER, composed, identities, kept, pinned

KEPT = kept()
BY_DEFAULT = [*commands.MIXTURES, *commands.few_recorded()]
EVERY_CHOICE = commands.every_choice()


@pytest.fixture(scope="module", autouse=True)
def everything_else_pinned() -> Iterator[None]:
    with pinned():
        yield


@pytest.mark.parametrize("words", BY_DEFAULT)
def test_a_command_gives_the_identities_it_gave(words: str) -> None:
    assert identities(composed(words)) == KEPT[words]


@pytest.mark.slow
@pytest.mark.parametrize("words", [w for w in KEPT if w not in {*BY_DEFAULT, *EVERY_CHOICE}])
def test_so_does_every_command_on_record(words: str) -> None:
    assert identities(composed(words)) == KEPT[words]


@pytest.mark.parametrize("words", EVERY_CHOICE)
def test_every_choice_composes_and_gives_the_identities_it_gave(words: str) -> None:
    run = composed(words)
    group, choice = words.split()[0].split("=")
    kind = SCHEMAS[group][str(schema(group, choice))]
    chosen = getattr(run, group)
    assert type(chosen[choice] if group in SEVERAL else chosen) is kind
    assert identities(run) == KEPT[words]


def test_every_yaml_is_a_choice_of_a_group() -> None:
    choices = [(group, choice) for group, of in groups().items() for choice in of]
    primary = list(SETTINGS.glob("*.yaml"))
    assert len(choices) + len(primary) == len(list(SETTINGS.rglob("*.yaml")))
    assert {group for group, _ in choices} == SCHEMAS.keys()


def test_every_command_is_kept_and_no_other() -> None:
    assert list(KEPT) == commands.every()


def test_what_is_on_record_is_found_again() -> None:
    on_record = commands.recorded()
    for words, identity in on_record.items():
        assert identity in (KEPT[words]["run"], KEPT[words]["formerly"]["run"]), words
    assert len(on_record) >= 206 + 27  # of version 0.2, and decoders


_LATER = ("decoder", "vocabulary", "cached", "tasks", "grown_tasks", "tuning_tasks")


def test_only_the_runs_with_a_reason_are_not_found_by_the_identity_they_had() -> None:
    decoders = {words for words, each in KEPT.items() if not each["formerly"]["corpus"]}
    assert {
        words for words, each in KEPT.items() if each["formerly"]["run"] is None
    } == OLDER.keys() | decoders
    studies = tuple(f"-cn {name} " for name in _LATER)
    alone = {words for words in decoders if not words.startswith(studies)}
    known = ("task=clm", "task.tokenizer=bpe", "task=classification", "task=glue", "task=packages")
    assert {each for each in alone if not any(word in each for word in known)} == {"scale=decoder"}
