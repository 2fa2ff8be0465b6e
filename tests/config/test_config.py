"""What is part of a run's identity, and which settings are refused."""

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, former_fingerprint, identity, plain
from dwt_cli.base.options import added
from dwt_cli.config.check import check, problems, warnings
from dwt_cli.config.compose import runs_of
from dwt_cli.config.files import SETTINGS, SWEEPS
from dwt_cli.config.run import SCHEMAS, Run, RunOptions, Study
from dwt_cli.data.options import HubPart
from dwt_cli.evaluate.options import Glue
from dwt_cli.track.options import NoTracker
from dwt_cli.training.options import AdamW

BOOKKEEPING = {
    *((task, name) for task in ("MaskedLM", "CausalLM") for name in ("family", "tokenizer")),
    *((t, n) for t in ("Classification", "GlueTask", "Packages") for n in ("family", "tokenizer")),
    *((name, "path") for name in ("Classification", "GlueTask")),  # the texts count
    ("Classification", "dev_path"),
    *((data, "tokenizer_kind") for data in ("Data", "Docs", "Files", "Hub")),  # the text has it
    ("Train", "micro_batch_size"),
    ("Train", "compile"),
    ("Train", "compile_with"),
    ("Train", "profile"),
    ("Train", "checkpoint_every"),
    ("Train", "keep_checkpoints"),
    ("Train", "max_rollbacks"),  # a run that ends has had fewer
    ("Train", "log_every"),
    *((kind, "batch_size") for kind in ("Sample", "Perturb", "Ascend")),
    ("Crossover", "max_steps"),  # the training has them
    ("Files", "path"),
    ("Checkpoint", "path"),
    ("CheckpointStudent", "path"),
    ("CheckpointTeacher", "path"),
    *(("Imported", name) for name in ("path", "tokenizer")),  # the files' sums count
    *(("ImportedTeacher", name) for name in ("path", "num_entries")),  # the signal has them
    ("SeveralTeachers", "members"),  # what they stand for counts
    ("Eval", "measures"),
    ("Eval", "at"),
    ("Eval", "glue"),
    ("Eval", "blimp"),
    ("Eval", "probing"),
    ("Eval", "harness"),
    ("Eval", "lambada"),
    ("Eval", "hellaswag"),
    ("Eval", "arc"),
    ("Blimp", "path"),
    ("Glue", "path"),
}
OUTSIDE = ["tracker", "launch", "parallel", "jobs", "scale", "run", "choices", "overrides", "found"]
CLASSES = sorted(
    {node for nodes in SCHEMAS.values() for node in nodes.values()} | {Glue, HubPart, RunOptions},
    key=lambda node: node.__name__,
)
FIELDS = [(node, f.name) for node in CLASSES for f in dataclasses.fields(node)]


@pytest.fixture(scope="module")
def nano(composed: Callable[..., Run]) -> Run:
    return composed("tracker=none")


def samples(hint: Any) -> Iterator[Any]:
    """Values of a type, all different; of an abstract one those of its simplest choice."""
    if inspect.isabstract(hint):
        choices = (kind for kind in CLASSES if issubclass(kind, hint))
        hint = min(choices, key=lambda kind: len(dataclasses.fields(kind)))
    if typing.get_origin(hint) is not None or NoneType in typing.get_args(hint):
        inner = typing.get_args(hint)
        match typing.get_origin(hint):
            case o if o is list:
                yield []
                yield from ([value] for value in samples(inner[0]))
            case o if o is tuple:
                yield from (tuple(v) for v in zip(*map(samples, inner), strict=True))
            case o if o is dict:
                yield from ({"key": value} for value in samples(inner[1]))
            case _:
                yield None
                yield from samples(next(kind for kind in inner if kind is not NoneType))
    elif dataclasses.is_dataclass(hint):
        first = {f.name: next(samples(kind)) for f, kind in typed_fields(hint)}
        yield hint(**first)
        for f, kind in typed_fields(hint):
            others = () if (hint.__name__, f.name) in BOOKKEEPING else [*samples(kind)][1:]
            for value in others:
                yield hint(**first | {f.name: value})
    elif hint in (bool, Any):
        yield from (False, True)
    elif issubclass(hint, Enum):
        yield from hint
    else:
        yield from map(hint, (3, 4))


def typed_fields(node: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(node)
    return [(f, hints[f.name]) for f in dataclasses.fields(node)]


@pytest.mark.parametrize(("node", "name"), FIELDS, ids=[f"{c.__name__}.{n}" for c, n in FIELDS])
def test_every_field_is_identity_unless_it_is_bookkeeping(node: type, name: str) -> None:
    first = next(samples(node))
    kind = {f.name: hint for f, hint in typed_fields(node)}[name]
    variants = [dataclasses.replace(first, **{name: value}) for value in samples(kind)]
    distinct = len({repr(plain(variant)) for variant in variants})
    fingerprints = len({fingerprint(variant) for variant in variants})
    assert distinct > 1
    assert fingerprints == (1 if (node.__name__, name) in BOOKKEEPING else distinct)


@pytest.mark.parametrize("f", dataclasses.fields(Run), ids=lambda f: f.name)
def test_of_a_run_what_is_around_it_is_not_identity(nano: Run, f: dataclasses.Field[Any]) -> None:
    run = deepcopy(nano)
    setattr(run, f.name, "something else")
    assert (fingerprint(run) == fingerprint(nano)) == (f.name in OUTSIDE)


def test_the_class_is_identity() -> None:
    counted = [node for node in CLASSES if vars(node).get("tag") != ""]  # the others change nothing
    by_class = {fingerprint(next(samples(node))) for node in counted}
    assert len(by_class) == len(counted)
    assert fingerprint(AdamW(lr=1)) != fingerprint(AdamW(lr=2))


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint("corpus", {"b": 1, "a": [1, 2]}, NoTracker()) == "e6d9ffc8824ffa82"


@dataclass
class Wheel:
    """Options as they are today."""

    spokes: int = 32


@dataclass
class SpokedWheel:
    """The same ones, renamed."""

    tag: ClassVar[str] = "Wheel"
    spokes: int = 32


@dataclass
class TubelessWheel(SpokedWheel):
    """A choice beside them that has their fields."""


@dataclass
class WheelWithHub:
    """The same ones with a field that came later."""

    tag: ClassVar[str] = "Wheel"
    spokes: int = 32
    hub: str | None = added(None)


@dataclass
class NoBrake:
    """The choice of a group that came later, with which all is as it was."""

    tag: ClassVar[str] = ""
    force: float = 1.0


def test_a_renamed_class_keeps_its_name_in_the_identity() -> None:
    assert identity(SpokedWheel(28)) == {"class": "Wheel", "spokes": 28}
    assert fingerprint(SpokedWheel()) == fingerprint(Wheel())
    assert plain(SpokedWheel()) == {"spokes": 32}


def test_a_tag_is_not_inherited() -> None:
    assert identity(TubelessWheel())["class"] == "TubelessWheel"


def test_a_field_counts_unless_it_has_its_default() -> None:
    for fingerprint_of in (fingerprint, former_fingerprint):
        assert fingerprint_of(WheelWithHub(28)) == fingerprint_of(Wheel(28))
        assert fingerprint_of(WheelWithHub(hub="dynamo")) != fingerprint_of(Wheel())
    assert identity(WheelWithHub()) == {"class": "Wheel"}
    assert identity(WheelWithHub(hub="dynamo")) == {"class": "Wheel", "hub": "dynamo"}
    assert plain(WheelWithHub()) == {"spokes": 32, "hub": None}


def test_a_new_group_counts_unless_it_has_its_default() -> None:
    before = fingerprint("ride", wheel=Wheel(28), teacher=None)
    assert fingerprint("ride", wheel=Wheel(28), brake=NoBrake()) == before
    assert fingerprint("ride", wheel=Wheel(28), brake=NoBrake(2.0)) != before
    assert fingerprint("ride", brake=Wheel(28)) != before


@pytest.mark.parametrize("node", CLASSES)
def test_a_new_field_of_any_class_changes_no_identity(node: Any) -> None:
    tag = vars(node).get("tag", node.__name__)
    for default in (None, 3, "none", dataclasses.field(default_factory=list)):
        fields = [("younger", Any, default)]
        later = dataclasses.make_dataclass(
            "Later", fields, bases=(node,), namespace={"tag": tag}, kw_only=True
        )
        for options in samples(node):
            assert identity(later(**vars(options))) == identity(options)


@pytest.mark.parametrize("node", CLASSES)
def test_what_refers_to_another_setting_or_has_to_be_given_always_counts(node: Any) -> None:
    options = next(samples(node))
    for f in dataclasses.fields(node):
        counts = f.metadata.get("identity", True)
        if counts and isinstance(f.default, str) and f.default.startswith(("???", "${")):
            assert f.name in identity(options)


def changed(run: Run, **settings: Any) -> Run:
    """A copy with settings, ``__`` for a dot."""
    run = deepcopy(run)
    for path, value in settings.items():
        *groups, name = path.split("__")
        place: Any = run
        for group in groups:
            place = place[group] if isinstance(place, dict) else getattr(place, group)
        assert hasattr(place, name), path
        setattr(place, name, value)
    return run


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scale=paper"],
        ["teacher=none"],
        ["optim=adamw", "scale.family=bert"],
        ["teacher=extremely_weak", "alpha=strong", "remap=paper"],
        ["teacher=checkpoint", "teacher.path=x"],
        ["teacher=checkpoint", "teacher.path=x", "student=checkpoint", "student.path=y"],
        ["teacher.budget=0.1", "teacher.temperature=2"],
        ["data@teacher.data=files", "teacher.data.path=x"],
        ["teacher=virtual"],
        ["teacher=several", "teacher.members=[small,untrained,label_smoothing,some/model]"],
        ["data=wikibooks"],
        ["data=files", "data.path=x"],
        ["alpha=off"],
    ],
    ids=str,
)
def test_what_is_offered_has_no_problems(
    composed: Callable[..., Run], overrides: list[str]
) -> None:
    assert list(problems(composed(*overrides))) == []


REFUSED: list[dict[str, Any]] = [
    {"task__keep_ratio": 0.6, "task__random_ratio": 0.6},
    {"student__width": 130, "student__num_heads": 4},
    {"student__width": 6, "student__num_heads": 2},
    {"student__vocab_size": 300},
    {"student__max_length": 32},
    {"teacher__vocab_size": 300},
    {"teacher__budget": 0.3},
    {"train__max_steps": None},
    {"optim__warmup": 0.6, "optim__decay": 0.6},
    {"optim__betas": (0.9, 0.9, 0.9)},
]
"""Settings that are wrong together, or in kind; tests/config/test_ranges.py has the ranges."""


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_one_line_that_names_setting_and_value(nano: Run, settings: dict[str, Any]) -> None:
    found = list(problems(changed(nano, **settings)))
    assert found
    for path, value in settings.items():
        name = path.replace("__", ".")
        shown = "null" if value is None else str(value)
        if isinstance(value, tuple | list):  # the one that is out of range
            shown = str(value[-1])
        assert any(name in line and shown in line for line in found), found
    assert all("\n" not in line for line in found)
    with pytest.raises(UserError):
        check(changed(nano, **settings))


def test_a_stand_alone_student_cannot_be_remapped(composed: Callable[..., Run]) -> None:
    (problem,) = problems(composed("teacher=none", "remap=paper"))
    assert problem.startswith("remap.depth=paper with teacher=none")


def test_numbers_at_the_limits_are_taken(nano: Run) -> None:
    run = changed(
        nano,
        train__micro_batch_size=1,
        optim__warmup=0.0,
        optim__decay=0.0,
        optim__weight_decay=0.0,
        task__keep_ratio=0.5,
        task__random_ratio=0.5,
        alpha__soft=0.0,
        train__max_steps=1,
        launch__num_threads=1,
    )
    assert list(problems(run)) == []


def test_settings_without_effect_are_warned_of(nano: Run, composed: Callable[..., Run]) -> None:
    assert list(warnings(nano)) == []
    alone = composed("teacher=none")
    alone.overrides = ["teacher=none", "+alpha.soft=3", "objective.logits.temperature=2"]
    assert [line.split()[0] for line in warnings(alone)] == ["alpha", "objective"]
    assert any(
        "tau_squared" in line
        for line in warnings(changed(nano, objective__logits__tau_squared=True))
    )
    assert any("max_minutes" in line for line in warnings(changed(nano, train__max_minutes=1.0)))


def test_a_step_that_is_found_for_another_start_is_warned_of(composed: Callable[..., Run]) -> None:
    for words, is_other in ((["remap=stack"], True), ([], False), (["remap=random"], False)):
        found = [*warnings(composed("alpha=crossover", *words))]
        assert any("one that is grown from its teacher" in line for line in found) is is_other
    set_by_hand = composed("alpha=crossover", "alpha.until=10", "remap=stack")
    assert not [*warnings(set_by_hand)]


@pytest.mark.parametrize(("batch_size", "num_parts"), [(8, 1), (16, 1), (24, 2), (512, 32)])
def test_a_scale_s_micro_batch_is_the_most_at_once(
    composed: Callable[..., Run], batch_size: int, num_parts: int
) -> None:
    run = composed("scale=decoder", f"train.batch_size={batch_size}")
    assert run.train.num_parts(1) == num_parts
    assert list(problems(run)) == list(warnings(run)) == []
    weighed = ["teacher=several", "teacher.members=[small,very_weak]", "teacher.weighting=batch"]
    found = problems(composed("scale=decoder", f"train.batch_size={batch_size}", *weighed))
    assert [line.split()[0] for line in found] == ["teacher.weighting=batch"] * (num_parts > 1)
    on_ranks = ["launch=torchrun", "launch.gpus=2", "launch.device=cpu"]
    (line,) = problems(composed(f"train.batch_size={batch_size}", *weighed, *on_ranks))
    assert line.startswith("teacher.weighting=batch with 2 ranks")


def test_the_runs_of_a_study_are_those_asked_for_one_by_one() -> None:
    study = Study, "crossover", str(SWEEPS)
    runs, is_multirun = runs_of(["arm=young_crossover,young_at_15", "seed=0,1"], *study)
    assert is_multirun and [run.alpha.until for run in runs] == [None, None, 60, 60]  # type: ignore[attr-defined]
    for run in runs:
        of = run.of_study
        assert of is not None
        assert runs_of([f"arm={of.arm}", "length=400", f"seed={run.seed}"], *study)[0] == [run]


@pytest.mark.parametrize("by_word", [True, False])
def test_a_choice_of_one_s_own_is_what_its_file_says_now(tmp_path: Path, by_word: bool) -> None:
    normal = (SETTINGS / "alpha/normal.yaml").read_text()
    own = tmp_path / "alpha" / "mine.yaml"
    own.parent.mkdir()
    (own.parent / ".#mine.yaml").symlink_to("an editor's lock, which leads nowhere")
    search = [f"hydra.searchpath=['file://{tmp_path}']"] if by_word else []
    for soft in (2.0, 3.0):
        own.write_text(normal.replace("soft: 1.0", f"soft: {soft}"))
        (run,), _ = runs_of([*search, "alpha=mine"], folder=None if by_word else str(tmp_path))
        assert run.alpha.soft == soft  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_word_that_an_arm_has_too_takes_the_place_of_no_other(place: int) -> None:
    words = ["arm=weak", "length=20", "scale.width=32", "seed=1"]
    words.insert(place, "alpha=normal")
    (run,), _ = runs_of(words, Study, "smoke", str(SWEEPS), is_multirun=True)
    assert {*words} <= {*run.overrides} and run.scale.width == 32


@pytest.mark.parametrize("is_multirun", [False, True])
def test_a_run_of_a_study_is_asked_for_without_the_words_of_its_arm(is_multirun: bool) -> None:
    words = ["arm=young_stack", "length=20", "seed=1"]  # the arm's are named, and stand for several
    (run,), _ = runs_of(words, Study, "payoff", str(SWEEPS), is_multirun=is_multirun)
    assert isinstance(run, Study) and run.asked_by == words
    assert {"teacher.seed=1", "teacher.budget=0.25", "remap=stack"} <= {*run.overrides}


def test_what_a_checkpoint_knows_need_not_be_typed(tmp_path: Path) -> None:
    for name, positions in (("run/model", 600), ("short", 40)):
        config = {"model_type": "bert", "vocab_size": 321, "max_position_embeddings": positions}
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    teacher = ["teacher=checkpoint", f"teacher.path={tmp_path}/run"]
    student = ["student=checkpoint", f"student.path={tmp_path}/short"]

    def sizes(*words: str) -> tuple[int, int, list[str]]:
        (run,), _ = runs_of(words)
        return run.data.vocab_size, run.data.block_length, run.found

    of_teacher = f"scale.vocab_size=321 is taken from teacher.path={tmp_path}/run"
    assert sizes(*teacher) == (321, 64, [of_teacher])
    found = [
        f"scale.{size} is taken from {student[1]}" for size in ("vocab_size=321", "block_length=40")
    ]
    assert sizes(*teacher, *student) == sizes("teacher=none", *student) == (321, 40, found)
    assert sizes(*student, "scale.vocab_size=300", "scale.block_length=16") == (300, 16, [])
    members = f"teacher.members=[small,{tmp_path}/short]"
    assert sizes("teacher=several", members)[:2] == (321, 40)
    tokenizer = tmp_path / "run" / "model" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({"model_max_length": 48}))
    assert sizes(*teacher, "scale.block_length=48")[2] == [of_teacher]
    _, _, (_, longer) = sizes(*teacher)
    assert f"{teacher[1]} was trained on blocks of 48 tokens" in longer
    assert sizes(*teacher, "teacher.window=48")[2] == [of_teacher]
    assert sizes() == (8192, 64, [])
