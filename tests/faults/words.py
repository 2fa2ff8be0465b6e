"""Random command lines, drawn by hypothesis: of the schema, and valid ones that were spoilt."""

import shlex
import string
from collections.abc import Sequence
from enum import Enum
from functools import cache
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from dwt_cli.base.options import Range, walk
from dwt_cli.config.files import groups, sweeps
from tests.golden.commands import MIXTURES, every_choice
from tests.golden.identities import composed, pinned

Words = list[str]

ODD = [
    *("", "null", "true", "False", "-1", "0", "1", "-0.5", "0.3", "3.7", "1e400", "nan", "inf"),
    *("999999999999999999999", "1e-300", "[]", "[1,2]", "[[1]]", "{a:1}", "{}", "ünïcode", "a b"),
    *("'", '"', "'a", "${seed}", "${nothing}", "${seed", "${oc.env:HOME}", "???", "..", "~", "."),
    *("a\nb", "choice(1,2)", "range(1,3)", "glob(*)", "1,2", "none", "\\", "%s", "=", "<b>&"),
    *("text", "model", "a_file", "nothing", "text/000.txt", "model/config.json"),
]
"""Values that no setting, or hardly one, is meant to have. The last are names in the folder."""

FLAGS = [
    *("-m", "--multirun", "--cfg", "--cfg=job", "--cfg=all", "--info", "--info=defaults", "-h"),
    *("--help", "--version", "-cn", "--config-name", "--config-dir=text", "--config-dir", "-p"),
    *("--package=model", "--resolve", "--hydra-help", "--run", "-x", "--nothing", "--", "-"),
    *("--shell-completion=install=bash", "--experimental-rerun=a_file", "help", "version"),
]


def commands() -> st.SearchStrategy[Words]:
    """Return a strategy for command lines, the program first."""
    return st.one_of(_spoilt(), _spoilt(), _from_schema(), _of_other_programs())


def advice() -> st.SearchStrategy[Words]:
    """Return a strategy for command lines of dwt-advise, which needs a budget."""
    return _advised()


@cache
def schema() -> dict[str, tuple[Any, Range | None]]:
    """Return every setting that some valid command has, with a value of it and its range."""
    found: dict[str, tuple[Any, Range | None]] = {}
    with pinned():
        runs = [composed(words) for words in every_choice()]
    for setting, value, bounds in chain.from_iterable(map(walk, runs)):
        if isinstance(value, str | int | float | Enum) or value is None:
            found.setdefault(setting, (value, bounds))
    return {name: each for name, each in found.items() if not name.startswith("overrides")}


def _choices() -> st.SearchStrategy[str]:
    of_group = [f"{group}={choice}" for group, names in groups().items() for choice in names]
    return st.sampled_from(of_group)


def _values(value: Any, bounds: Range | None) -> st.SearchStrategy[str]:
    """Return values for a setting: near its own, at the ends of its range, and odd ones."""
    likely = [] if value is None else [value.name if isinstance(value, Enum) else value]
    if isinstance(value, Enum):
        likely += [each.name for each in type(value)]
    elif isinstance(value, bool):
        likely = ["true", "false"]
    elif isinstance(value, int | float):
        likely += [value + 1, value * 2, -value, value / 3]
    ends = [bounds.low, bounds.high, bounds.low - 1, bounds.high + 1] if bounds else []
    return st.sampled_from([str(each) for each in [*likely, *likely, *ends]] + ODD)


@st.composite
def _setting(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(schema())))
    mark = draw(st.sampled_from(["", "", "", "", "+", "++", "~"]))
    return f"{mark}{name}={draw(_values(*schema()[name]))}"


@st.composite
def _from_schema(draw: st.DrawFn) -> Words:
    chosen = draw(st.lists(_choices(), max_size=4))
    return ["dwt-train", *chosen, *draw(st.lists(_setting(), min_size=1, max_size=4))]


@st.composite
def _spoilt(draw: st.DrawFn) -> Words:
    valid = [*MIXTURES, *every_choice(), *(f"-cn {name}" for name in sweeps())]
    valid += ["-cn grades chain.teacher=model chain.layers=[3,4]", "-m seed=0,1 teacher=none,small"]
    words = shlex.split(draw(st.sampled_from(valid)))
    evaluates = draw(st.integers(0, 7)) == 0
    if evaluates:
        words = ["model=model", *(word for word in words if word.startswith(("eval", "task")))]
    for _ in range(draw(st.integers(1, 3))):
        words = _spoil(draw, words)
    return ["dwt-eval" if evaluates else "dwt-train", *words]


@st.composite
def _advised(draw: st.DrawFn) -> Words:
    words = shlex.split(draw(st.sampled_from([*MIXTURES, *every_choice()])))
    words.append(f"advise.budget={draw(st.sampled_from(['8h', '1e12', '90s', '1e9', *ODD]))}")
    for name in ("share", "seeds"):
        if draw(st.booleans()):
            words.append(f"advise.{name}={draw(st.sampled_from(['1', '0.25', '2', *ODD]))}")
    if draw(st.booleans()):
        words.append("run.peak_tflops=1e-3")
    for _ in range(draw(st.integers(0, 2))):
        words = _spoil(draw, words)
    return ["dwt-advise", *words]


def _spoil(draw: st.DrawFn, words: Sequence[str]) -> Words:
    """Return the words with one mistake, as fingers or scripts make them."""
    at = draw(st.integers(0, max(0, len(words) - 1)))
    before, word, after = words[:at], [*words, ""][at], words[at + 1 :]
    name, is_setting, value = word.partition("=")
    place = draw(st.integers(0, len(word)))
    letter = draw(st.sampled_from(string.printable + "ß…"))
    made = draw(
        st.sampled_from(
            [
                [word[:place] + word[place + 1 :]],
                [word[:place] + letter + word[place:]],
                [word[:place] + letter + word[place + 1 :]],
                [word[:place], word[place:]],
                [],
                [word, word],
                [f"{name}={draw(st.sampled_from(ODD))}"] if is_setting else [value],
                [word, draw(_setting())],
                [word, draw(_choices())],
                [word, draw(st.sampled_from(FLAGS))],
            ]
        )
    )
    return [*before, *made, *after]


@st.composite
def _of_other_programs(draw: st.DrawFn) -> Words:
    program, known = draw(
        st.sampled_from(
            [
                ("dwt-report", ["runs/studies/nothing", "runs", "--workspace", "a/b", "study"]),
                ("dwt-runs", ["list", "runs", "--root", "--root=runs"]),
                ("dwt-cache", ["list", "size", "clean", "--yes", "--older-than", "3"]),
                ("dwt-trace", ["run", "queries.jsonl", "--beta", "0", "--top=3", "--raw"]),
            ]
        )
    )
    names = [*known, *known, "text", "a_file", "nothing", "", "-x", "--help", "ünï", "-1"]
    return [program, *draw(st.lists(st.sampled_from(names), max_size=4))]
