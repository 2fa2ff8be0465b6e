"""study.json: what is written is read, and what cannot be used is told in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.study.record import FILE, Claim, Expect, read_study, write_study
from tests.study import miniature


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), exploratory=["poor"], claims=[])
    study = read_study(folder)
    assert (study.lengths, study.seeds, len(study.jobs)) == ([100, 200], [0, 1], 12)
    assert study.exploratory == ["poor"]
    again = tmp_path / "again"
    again.mkdir()
    write_study(again, study)
    assert read_study(again) == study
    assert (again / FILE).read_text() == (folder / FILE).read_text()


def test_the_lengths_of_arms(tmp_path: Path) -> None:
    study = read_study(miniature.write(tmp_path, seeds=(0,)))
    assert study.lengths_of("alone", "weak") == [100, 200]
    assert study.claims[1] == Claim("a poor teacher helps", "poor", "alone", Expect.lower, 200, 1.0)


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def changed(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[keys[-1]] = to

    return changed


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change("version", to=2), "version: Input should be 1"),
        (lambda content: content.pop("arms"), "it lacks arms"),
        (lambda content: content["claims"][0].pop("expect"), "it lacks claims.expect"),
        (lambda content: content["jobs"][0].pop("arm"), "jobs.0.arm: Field required"),
        (change("colour", to="red"), "colour: Unexpected keyword argument"),
        (change("smallest_effect", to="small"), "smallest_effect: Input should be a valid number"),
        (change("smallest_effect", to=-1), "smallest_effect=-1.0: it is at least 0"),
        (change("jobs", "1", "seed", to=True), "jobs.1.seed: Input should be a valid integer"),
        (change("jobs", "0", "state", to="lost"), "jobs.0.state: Input should be 'finished'"),
        (change("claims", "0", "expect", to="best"), "expect: Input should be 'lower', "),
        (change("claims", "0", "best_of", to=["alone"]), "has either against, or best_of"),
        (change("claims", "0", "within", to=0.04), "has within=0.04; it is about not_higher"),
        (change("claims", "0", "progress", to=1.5), "progress=1.5 is no share of a run"),
        (
            lambda content: content["claims"][0].update(tokens=5, progress=0.5),
            "has tokens=5 and progress=0.5; leave one out",
        ),
        (change("claims", "0", "tokens", to=0), "tokens=0 is no place in a run"),
        (change("claims", "0", "against", to="none"), "claims names the arm 'none'"),
        (change("baseline", to="none"), "baseline names the arm 'none'"),
        (change("exploratory", to=["weak"]), "is about an exploratory arm"),
        (change("jobs", "0", "length", to=200), "of length 200 and seed 0 is there twice"),
    ],
)
def test_a_record_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    folder = miniature.write(tmp_path, seeds=(0,))
    content = json.loads((folder / FILE).read_text())
    damage(content)
    (folder / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_study(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_record_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no study's folder: it has no study"):
        read_study(tmp_path)
    for text in ('{"version": 1, "na', "[1]", '"text"'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match="writes it again"):
            read_study(tmp_path)
