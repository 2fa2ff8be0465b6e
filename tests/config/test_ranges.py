"""Every number has a range, and a value outside of it is one line, whatever it belongs to."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any

import pytest

from dwt_cli.base.options import Range, dotted, walk
from dwt_cli.config import files
from dwt_cli.config.check import problems
from dwt_cli.config.run import SCHEMAS, Run, RunOptions

OF_A_CLASSIFIER = ["student=checkpoint", "student.path=model", "teacher=none"]

_ROWS = ["task=clm", "objective=top_k", "alpha=normal", "signal.path=rows.jsonl",
         "signal.tokenizer=0123"]  # fmt: skip
NEEDS = {
    "signal=imported": _ROWS,
    "teacher=imported": ["signal=imported", *_ROWS],
    "data=files": ["data.path=text"],
    "teacher=made": ["teacher.num_layers=2"],
    "teacher=checkpoint": ["teacher.path=model"],
    "teacher=several": ["teacher.members=[small,very_weak]", "teacher.weights=[1,2]"],
    "student=checkpoint": ["student.path=model"],
    "task=classification": ["task.path=train.jsonl", *OF_A_CLASSIFIER],
    "task=glue": ["task.name=RTE", *OF_A_CLASSIFIER],
    "task=packages": OF_A_CLASSIFIER,
    "teacher=self": ["objective=self_features"],
    "objective=self_features": ["teacher=self"],
    "objective=alm": ["task=clm"],
    "objective=uld": ["task=clm"],
    "signal=top_k": ["objective=top_k"],
    "tuning=lora": ["student=checkpoint", "student.path=model"],
    "tuning=dsee": ["student=checkpoint", "student.path=model"],
    "launch=torchrun": ["launch.gpus=2"],
    "launch=slurm": ["launch.gpus=2"],
}
"""Words that a choice does not compose without."""

CHECKED_TOGETHER = {
    "teacher.budget": 0.3,
    "order.budget": 0.3,
    "teacher.confidence": 1e-6,
    "teacher.vocab_size": 99,
    "teacher.max_length": 1,
    "student.vocab_size": 99,
    "student.max_length": 1,
    "objective.top_k.k": 100_000,
}
"""Numbers whose limits depend on other settings, or are a list, with one beyond them."""

ANY_NUMBER = ("teacher_layer", "student_layer", "pairs")  # the models' depths decide


def choices() -> dict[tuple[str, type], str]:
    """One choice of each class of options, as a word of the command."""
    found: dict[tuple[str, type], str] = {}
    for group, names in files.groups().items():
        for name in names:
            found.setdefault((group, SCHEMAS[group][str(files.schema(group, name))]), name)
    return {key: f"{key[0]}={name}" for key, name in found.items()}


@pytest.fixture(scope="module")
def made(composed: Callable[..., Run]) -> Callable[[str], Run]:
    return lambda choice: composed(choice, *NEEDS.get(choice, []))


def outside(bounds: Range, kind: str) -> Iterator[float]:
    """Yield values below and above a range, of the field's type."""
    number = float if "float" in kind else int
    if bounds.low > -math.inf:
        yield number(bounds.low if bounds.beyond else bounds.low - 1)
    if bounds.high < math.inf:
        yield number(bounds.high if bounds.below else bounds.high + 1)


def of_group(run: Run, group: str) -> Iterator[tuple[str, Any]]:
    return ((name, node) for name, node in nodes(run) if name.split(".")[0] == group)


def nodes(run: Run) -> Iterator[tuple[str, Any]]:
    return ((name, each) for name, each, _ in walk(run) if dataclasses.is_dataclass(each))


@pytest.mark.parametrize("choice", ["run", *choices().values()])
def test_outside_of_its_range(made: Callable[[str], Run], choice: str) -> None:
    run = made(choice if "=" in choice else "seed=0")
    for setting, node in [*of_group(run, choice.partition("=")[0]), ("", run)]:
        for f in dataclasses.fields(node):
            bounds, kept = f.metadata.get("range"), getattr(node, f.name)
            for value in outside(bounds, str(f.type)) if bounds else ():
                setattr(node, f.name, [value] if isinstance(kept, list | tuple) else value)
                (line,) = problems(run)
                assert line.startswith(f"{dotted(setting, f.name)}={value}: it "), line
                ends = (bounds.low, bounds.high)
                assert all(str(end) in line for end in ends if math.isfinite(end)), line
            setattr(node, f.name, kept)
    assert list(problems(run)) == []


def numbers() -> Iterator[tuple[str, bool]]:
    """Yield every numeric setting, and whether it has a range."""

    def of(prefix: str, node: type) -> Iterator[tuple[str, bool]]:
        kinds = typing.get_type_hints(node)
        for f in dataclasses.fields(node):
            kind = kinds[f.name]
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                yield from of(f"{prefix}.{f.name}", kind)
            elif {int, float} & set(_parts(kind)) and f.name not in ANY_NUMBER:
                yield f"{prefix}.{f.name}", "range" in f.metadata

    yield from of("run", RunOptions)
    yield "seed", "range" in Run.__dataclass_fields__["seed"].metadata
    for (group, node), word in choices().items():
        several = f"{group}.{word.partition('=')[2]}" if group == "objective" else group
        yield from of(several, node)


def _parts(kind: Any) -> Iterator[Any]:
    if isinstance(kind, UnionType) or typing.get_origin(kind) in (tuple, list):
        for part in typing.get_args(kind):
            yield from _parts(part)
    else:
        yield kind


def test_every_number_has_a_range() -> None:
    without = {name for name, has_range in numbers() if not has_range}
    assert without <= CHECKED_TOGETHER.keys()


@pytest.mark.parametrize("setting", CHECKED_TOGETHER)
def test_outside_of_what_other_settings_allow(made: Callable[[str], Run], setting: str) -> None:
    place, _, name = setting.rpartition(".")
    words = [
        word
        for (group, node), word in choices().items()
        if group == setting.split(".")[0] and name in {f.name for f in dataclasses.fields(node)}
    ]
    run = made(words[0])
    setattr(dict(nodes(run))[place], name, CHECKED_TOGETHER[setting])
    begin = f"{setting}={CHECKED_TOGETHER[setting]}"
    assert any(line.startswith(begin) for line in problems(run)), begin
