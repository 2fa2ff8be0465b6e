"""A chain: runs in a row, of which the later ones open the models of earlier ones."""

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from omegaconf import MISSING

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.base.options import at_least, between
from dwt_cli.config.run import DISTILLATION, GROUPS_AND_SETTINGS, Run
from dwt_cli.data.glue import TASKS
from dwt_cli.models.options import MOST_LAYERS

CHAIN_SETTINGS = [*GROUPS_AND_SETTINGS, "chain"]
"""The first words of the settings of a chain's primary config."""

OF_ALL = ("chain", "run", "jobs")
"""The groups that are about the chain, and not about one of its stages alone."""

_NAME = r"[A-Za-z0-9_]+"

LABELLED = ("packages", "classification")
"""The tasks of labelled texts beside GLUE's."""

DISTILLED = ("teacher", *DISTILLATION)
"""The groups that are about a student with a teacher."""


@dataclass
class Chain:
    """Stages, each an ordinary run, that are carried out in their order.

    teacher: a model that exists, a folder or a name on the hub. words: those of a command that all
    stages have, unless the command has its own. stages: the words of each, by name; a value
    ``@NAME`` stands for the folder of an earlier stage, ``@teacher`` for the teacher.
    """

    teacher: str = MISSING
    words: str | None = None
    stages: dict[str, str] = field(default_factory=dict)

    def each(self, typed: Sequence[str] = ()) -> dict[str, str]:
        """Return the words of each stage, by name and in order. typed: those that all may have."""
        return self.stages

    def concerns(self, stage: str, setting: str) -> bool:
        """Return whether a stage has use for a setting that is typed for all."""
        return True

    @property
    def reference(self) -> str | None:
        """The stage whose model knows a task, with which later ones are compared; None: none."""
        return None

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the stages' names, a line each."""
        for name in self.each():
            if not re.fullmatch(_NAME, name) or name == "teacher":
                yield f"{setting}.stages: {name!r} is no name for a stage; use letters, digits, _"
        if not self.each():
            yield f"{setting}.stages={{}}: a chain has one stage at least; name it"

    def problems_after(self, setting: str, num_layers: int) -> Iterator[str]:
        """Yield what is wrong beside a teacher of so many layers, a line each."""
        yield from ()


@dataclass
class Grades(Chain):
    """Students that grow, or shrink, grade by grade: each is the next one's teacher.

    After PMD (arXiv 2401.12997, AAAI 2024), which shrinks 12 -> 9 -> 6 -> 3 with 20, 10, 5 and 0%
    of the tokens masked; that growth masks more from grade to grade is a guess.

    layers: of each grade. mask: the share of tokens that each grade masks; empty: the task's.
    same: a grade may have the layers of the one before, as PMD's first one has.
    """

    layers: list[int] = between(1, MOST_LAYERS, MISSING)
    mask: list[float] = between(0.01, 0.9, [])
    same: bool = False

    def each(self, typed: Sequence[str] = ()) -> dict[str, str]:
        masks = [f" task.mask_ratio={ratio}" for ratio in self.mask] or [""] * len(self.layers)
        before = ["teacher", *(f"grade{number}" for number in range(1, len(self.layers) + 1))]
        return {
            name: f"teacher.path=@{teacher} student.num_layers={layers}{mask}"
            for (teacher, name), layers, mask in zip(
                itertools.pairwise(before), self.layers, masks, strict=True
            )
        }

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the grades, a line each."""
        if not self.layers:
            yield f"{setting}.layers=[]: name one grade at least, as in {setting}.layers=[6,9,12]"
        if self.mask and len(self.mask) != len(self.layers):
            yield (
                f"{setting}.mask={self.mask} and {setting}.layers={self.layers}: give "
                f"{len(self.layers)}, one for each grade, or none"
            )
        if self.stages:
            yield f"{setting}.stages has no effect here: {setting}.layers makes them; leave it out"
        yield from self._out_of_order(f"{setting}.layers={self.layers}", setting, self.layers)

    def problems_after(self, setting: str, num_layers: int) -> Iterator[str]:
        named = f"{setting}.layers={self.layers} after a teacher of {num_layers} layers"
        yield from self._out_of_order(named, setting, [num_layers, *self.layers])

    def _out_of_order(self, named: str, setting: str, layers: Sequence[int]) -> Iterator[str]:
        steps = [after - before for before, after in itertools.pairwise(layers)]
        if any(step > 0 for step in steps) and any(step < 0 for step in steps):
            yield f"{named}: grades rise throughout, or fall throughout; put them in order"
        elif 0 in steps and not self.same:
            yield (
                f"{named}: a grade equals the one before; set {setting}.same=true, or leave it out"
            )


_OF_TEACHER = "teacher=checkpoint teacher.path=@teacher "
_OPENED = "student=checkpoint student.path=@{} "
_LATENT = (
    "objective=[attention,hidden{}] objective.hidden.pairs=null objective.hidden.distance=mse "
    "alpha=normal"
)


@dataclass
class ErnieTiny(Chain):
    """A teacher's task in four stages, of which each changes one thing (ERNIE-Tiny, 2106.02241).

    The teacher is fine-tuned first. Then the student, on general text, has the features of the
    teacher and of the tuned one; on the task's texts those of the tuned one, and at last its
    answers and the labels too. The abstract says that much; that features are TinyBERT's, the
    weights 1 and the layers' map is a reconstruction.

    task: packages, classification, or one of GLUE's by its name. steps: of each stage, the
    teacher's fine-tuning first; empty: the scale's. alone: the control: the last stage alone, in as
    many steps as the four, the first of which makes the model that it opens.
    """

    task: str = MISSING
    steps: list[int] = at_least(1, [])
    alone: bool = False

    def each(self, typed: Sequence[str] = ()) -> dict[str, str]:
        labelled = f"task={self.task} "
        if self.task not in LABELLED:
            labelled = f"task=glue task.name={self.task} "
        tuned, general = "teacher=checkpoint teacher.path=@tuned ", _LATENT.format("")
        last = labelled + tuned + _LATENT.format(f",{self._of_answers(typed)}")
        stages = {"tuned": labelled + _OPENED.format("teacher") + "teacher=none"}
        if self.alone:
            stages |= {
                "begun": _OF_TEACHER + general.replace("alpha=normal", "alpha=off"),
                "specific": _OPENED.format("begun") + last,
            }
        else:
            general += " alpha.hard=0"
            stages |= {
                "general": _OF_TEACHER + general,
                "enhanced": _OPENED.format("general") + tuned + general,
                "adaptive": labelled + _OPENED.format("enhanced") + tuned + general,
                "specific": _OPENED.format("adaptive") + last,
            }
        steps = self.steps
        if self.alone and steps:
            steps = [steps[0], 1, sum(steps[1:]) - 1]
        if not steps:
            return stages
        pairs = zip(stages.items(), steps, strict=True)
        return {name: f"{words} train.max_steps={n}" for (name, words), n in pairs}

    def concerns(self, stage: str, setting: str) -> bool:
        setting = setting.lstrip("+~")
        group = setting.partition(".")[0]
        if setting in ("task", "task.mask_ratio"):  # of general text
            return stage in ("general", "enhanced", "begun")
        if group == "task":
            return stage in ("tuned", "adaptive", "specific")
        if group in ("student", "remap"):
            return stage in ("general", "begun")
        if setting.startswith(("objective.logits", "objective.mse")):
            return stage == "specific"
        return stage not in ("tuned", "begun") or group not in DISTILLED

    def _of_answers(self, typed: Sequence[str]) -> str:
        """Return the objective of answers: of a task whose labels are numbers another."""
        is_number = self.task in TASKS and not TASKS[self.task].labels
        is_number |= any(word.lower() == "task.regression=true" for word in typed)
        return "mse" if is_number else "logits"

    @property
    def reference(self) -> str:
        return "tuned"

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the task, or with the steps, a line each."""
        known = [*LABELLED, *TASKS]
        if self.task not in known:
            yield not_among(f"{setting}.task={self.task}", "task", self.task, known)
        if self.steps and len(self.steps) != 5:
            yield (
                f"{setting}.steps={self.steps}: give 5, one for the teacher's fine-tuning and for "
                "each of the four stages, or none"
            )
        if self.alone and not self.steps:
            yield (
                f"{setting}.alone=true: it lasts as long as the four together; give "
                f"{setting}.steps, 5 numbers"
            )
        if self.stages:
            yield f"{setting}.stages has no effect here: {setting}.task makes them; leave it out"


CHAINS: dict[str, type[Chain]] = {"stages": Chain, "grades": Grades, "ernie_tiny": ErnieTiny}
"""Known to Hydra as ``/schema/chain: NAME``."""


@dataclass
class Chained(Run):
    """The options of a chain, and those of a run that are about all of it."""

    chain: Chain = MISSING


def words_of_stages(chain: Chain, typed: Sequence[str]) -> dict[str, list[str]]:
    """Return the words of each stage as a command by itself has them, models still as ``@NAME``.

    typed: those of the chain's own command, but for ``chain.``. Raises `UserError` where it sets
    what a stage sets, and for a name of no earlier stage.
    """
    said = {_setting(word): word for word in typed}
    all_have = words_in("chain.words", chain.words or "")
    common = [word for word in all_have if _setting(word) not in said]
    known, found = ["teacher"], {}
    for name, words in chain.each([*common, *typed]).items():
        own = words_in(f"chain.stages.{name}", words)
        for word in own:
            key, _, value = word.partition("=")
            if chain.concerns(name, key) and said.get(key, word) != word:
                raise UserError(f"{said[key]}: the stage {name} sets {word}; leave it out")
            if value.startswith("@") and value[1:] not in known:
                line = not_among(f"{name}: {word}", "earlier stage", value[1:], known)
                raise UserError(f"chain.stages.{line}")
        keys = set(map(_setting, own))
        found[name] = [
            word
            for word in (*common, *said.values())
            if (key := _setting(word)) not in keys and chain.concerns(name, key)
        ]
        found[name] += own
        known.append(name)
    return found


def words_in(setting: str, text: str) -> list[str]:
    """Return the words of a command that a setting holds."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{setting}={text}: {error}; quote it as a shell has it") from error


def filled(words: Sequence[str], models: Mapping[str, str]) -> list[str]:
    """Return words in which ``@NAME`` is the folder that ``models`` has for it, if it has one."""
    done = []
    for word in words:
        key, _, value = word.partition("=")
        path = models.get(value[1:]) if value.startswith("@") else None
        done.append(f"{key}={quoted(path)}" if path else word)
    return done


def quoted(path: str) -> str:
    """Return a path as Hydra reads it: by itself not as a number, and in some letters alone."""
    if "/" in path and re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./+-]*", path):
        return path
    return "'" + path.replace("'", "\\'") + "'"


def _setting(word: str) -> str:
    return word.partition("=")[0]
