"""The stages of the teacher: a model that is trained here or opened, a mixture, or no model.

One pre-training serves every ``teacher.budget``: the model is kept at a fixed grid of shares of
it, beside the finished one, in the cache.
"""

import contextlib
import json
import math
import shutil
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.config.run import path_setting
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Data
from dwt_cli.data.source import Source
from dwt_cli.distill.loss import DistillationLoss
from dwt_cli.distill.teacher.mixture import MixtureSignal
from dwt_cli.distill.teacher.options import (
    BUDGETS,
    CheckpointTeacher,
    MadeTeacher,
    ModelTeacher,
    SeveralTeachers,
    SingleTeacher,
    Teacher,
    VirtualTeacher,
)
from dwt_cli.distill.teacher.signal import ModelSignal, TeacherSignal
from dwt_cli.distill.teacher.virtual import VirtualSignal
from dwt_cli.evaluate.lm import metrics_of
from dwt_cli.evaluate.snapshots import place_of
from dwt_cli.models.checkpoint import open_folder, open_model, provenance, save_model
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.making import make_model, outline
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.stage import Context, Done, Setup, Stage, train
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.summary import Facts


@dataclass(frozen=True)
class Prepared:
    """A teacher that can be asked. Its signal alone holds the model, and can let go of it.

    step_flops: what the signal costs for a step's batch. wrapped: the one model behind the signal,
    which is None where there is no model or more than one.
    """

    facts: Facts
    step_flops: float
    signal: TeacherSignal
    wrapped: "weakref.ref[LanguageModel] | None" = None

    @property
    def model(self) -> PreTrainedModel | None:
        """The model whose weights remap may copy, while it is there."""
        wrapped = self.wrapped and self.wrapped()
        return wrapped.model if wrapped else None


@dataclass(frozen=True, kw_only=True)
class TeacherStage(Stage):
    """A teacher, until it can be asked: its artifact is a `Prepared` one."""

    name: str
    conditions: Conditions
    corpus: CorpusStage

    @property
    def bars(self) -> tuple[str, ...]:
        return ()

    @property
    def identities(self) -> tuple[str, ...]:
        """The fingerprints of the single teachers."""
        return (self.identity,)

    def known_facts(self, cache: Cache) -> Facts | None:
        """Return the facts of one that was trained to its end before; else None."""
        return None

    @abstractmethod
    def carry_out(self, done: Done, at: Context) -> Prepared:
        """Return the teacher. All ranks are here."""

    def _facts_of(self, signal: TeacherSignal, done: Done, at: Context, **facts: Any) -> Facts:
        heldout = self.conditions.heldout(done[self.corpus.name], at.ranks.size)
        metrics = metrics_of(
            lambda batch: signal(batch).targets.dense(), heldout, at.machine.device
        )
        return Facts(heldout=metrics, **facts)


@dataclass(frozen=True, kw_only=True)
class VirtualStage(TeacherStage):
    """A teacher that is no model."""

    options: VirtualTeacher

    @property
    def identity(self) -> str:
        return fingerprint("virtual")

    def carry_out(self, done: Done, at: Context) -> Prepared:
        signal = VirtualSignal(self.options.confidence, self.conditions.vocab_size)
        return Prepared(self._facts_of(signal, done, at, parameters=0, flops=0), 0, signal)


@dataclass(frozen=True, kw_only=True)
class ModelStage(TeacherStage):
    """A teacher that is one model."""

    options: ModelTeacher

    @abstractmethod
    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return the model, and its facts; ``heldout`` may be lacking."""

    def carry_out(self, done: Done, at: Context) -> Prepared:
        model, facts = self.model(done, at)
        wrapped = self.conditions.wrapped(model, at.machine).to(at.machine.device)
        if "heldout" not in facts:
            evaluate = self.conditions.evaluation(done[self.corpus.name], at.machine, at.ranks)
            facts["heldout"] = evaluate(wrapped)
        facts["parameters"] = num_parameters(model)
        if self.bars:
            at.show.update(self.name, 1.0, f"held-out {facts['heldout']['loss']:.3f}")
        return Prepared(
            Facts.from_json(facts),
            self.conditions.step_flops(model),
            ModelSignal(wrapped, self.options.temperature),
            weakref.ref(wrapped),
        )


@dataclass(frozen=True, kw_only=True)
class OpenedStage(ModelStage):
    """A teacher that exists. setting: the one that names it."""

    options: CheckpointTeacher
    setting: str

    @cached_property
    def identity(self) -> str:
        return fingerprint("checkpoint", provenance(self.options.path, self.options.revision))

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        return open_model(self.setting, self.options, self.conditions.task.head), {"flops": None}


@dataclass(frozen=True, kw_only=True)
class TrainedStage(ModelStage):
    """A teacher that is pre-trained here, or left as it is made.

    text: its own; None: the student's. It is evaluated on the student's held-out text always.
    """

    options: MadeTeacher
    text: "TextStage | None" = None

    @cached_property
    def identity(self) -> str:
        """The fingerprint of the pre-training, whatever share of it the budget is."""
        return fingerprint(
            "teacher",
            (self.text or self.corpus).identity,
            replace(self.options, budget=1.0, temperature=1.0, data=None),
            self.conditions.task,
            self.conditions.optim,
            self.conditions.lasting(self.options.max_steps),
            self.conditions.eval,  # its facts have a held-out loss
        )

    @property
    def bars(self) -> tuple[str, ...]:
        return (self.name,) if self.options.budget > 0 else ()

    def cost(self, done: Mapping[str, Any]) -> float:
        return self._training_flops if self.options.budget > 0 else 0.0

    @cached_property
    def _training_flops(self) -> float:
        forward = self.conditions.step_flops(outline(self.options))
        return forward * FORWARD_AND_BACKWARD * self.options.max_steps

    def is_kept(self, cache: Cache) -> bool:
        return cache.holds("teacher", self.identity)

    def known_facts(self, cache: Cache) -> Facts | None:
        if self.options.budget < 1 or not self.is_kept(cache):
            return None
        return Facts.from_json(_read_facts(cache.place("teacher", self.identity)))

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return the model at its budget."""
        options = self.options
        if options.budget == 0:
            return make_model(options, options.seed, "teacher"), {"flops": 0, "steps": 0}
        folder = at.trained(
            "teacher",
            self.identity,
            lambda folder: self._pretrain(done, at, folder),
            {"options": plain(replace(options, budget=1.0)), "corpus": self.corpus.identity},
        )
        facts = _read_facts(folder)
        if options.budget == 1:
            return open_folder(folder / "model", self.conditions.task.head), facts
        step, place = step_at(options.budget, options.max_steps), place_of(folder, options.budget)
        if not place.is_dir():
            raise UserError(
                f"teacher.budget={options.budget:g}: {folder} was trained without keeping the "
                "model on its way; delete it, and it is made again"
            )
        share = step / facts["steps"]
        scaled = {name: facts[name] * share for name in ("epochs", "flops", "seconds")}
        tokens = facts["tokens"] * step // facts["steps"]
        return open_folder(place, self.conditions.task.head), {
            "steps": step,
            "tokens": tokens,
            **scaled,
        }

    def _pretrain(self, done: Done, at: Context, folder: Path) -> None:
        if at.ranks.from_first("the teacher", (folder / "facts.json").is_file):
            # a start before this one came to the end
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return
        conditions, corpus = self.conditions, done[self.corpus.name]
        text = self.text.carry_out(done, at) if self.text else corpus
        model = make_model(self.options, self.options.seed, "teacher")
        setup = Setup(
            purpose="teacher",
            stage=self.name,
            identity=self.identity,
            folder=folder,
            seed=self.options.seed,
            train=conditions.lasting(self.options.max_steps),
            optim=conditions.optim,
            parallel=conditions.parallel,
            eval_every=conditions.eval.every,
            step_flops=conditions.step_flops(model) * FORWARD_AND_BACKWARD,
            shares=BUDGETS[1:],
        )
        facts = train(
            setup,
            conditions.wrapped(model, at.machine),
            DistillationLoss(compiled=conditions.train.compile),
            conditions.batches(text, setup.seed, setup.purpose),
            conditions.evaluation(corpus, at.machine, at.ranks),
            at,
            save=model.save_pretrained,
        )
        if not at.ranks.is_first:
            return
        unit = conditions.task.unit
        draw_curves(folder / "metrics.jsonl", folder / "curves.png", "teacher", {}, unit)
        save_model(model, corpus.tokenizer, folder / "model")
        atomic.write_json(folder / "facts.json", facts.to_json())
        shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it


@dataclass(frozen=True, kw_only=True)
class TextStage(Stage):
    """A teacher's own text, in the tokens of the student's; it is read if the teacher is trained.

    name: the teacher's stage, whose bar shows how far the reading is.
    """

    name: str
    data: Data
    corpus: CorpusStage

    @cached_property
    def source(self) -> Source:
        """The text itself, opened."""
        with _about_teachers_text():
            return self.data.open_source()

    @cached_property
    def identity(self) -> str:
        return fingerprint(
            "teacher's text",
            corpora.BUILDER_VERSION,
            self.source.provenance(),
            self.data,
            self.corpus.identity,  # its tokenizer
        )

    def carry_out(self, done: Done, at: Context) -> Corpus:
        """Return the student's corpus with this text to train on."""

        def advance(so_far: int, total: int) -> None:
            share = so_far / total if total else 0
            at.show.update(self.name, 0.0, f"reading its text {share:.0%}")

        def make(folder: Path) -> None:
            tokenizer = at.cache.place("corpus", self.corpus.identity) / "tokenizer"
            corpora.build(
                self.source,
                self.data,
                self.corpus.task.frame,
                str(tokenizer),
                folder,
                advance,
                at.show.say,
            )

        with _about_teachers_text():
            text = at.prepared("corpus", self.identity, make, {"options": plain(self.data)})
        corpus: Corpus = done[self.corpus.name]
        return replace(corpus, train=Corpus.open(text).train)


@dataclass(frozen=True, kw_only=True)
class MixtureStage(TeacherStage):
    """Several teachers as one. members: their stages, which come before."""

    options: SeveralTeachers
    members: Sequence[TeacherStage]

    @cached_property
    def identity(self) -> str:
        return fingerprint("mixture", self.options, *self.identities)

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(member.identity for member in self.members)

    def carry_out(self, done: Done, at: Context) -> Prepared:
        options = self.options
        members: list[Prepared] = [done[member.name] for member in self.members]
        for member in members:
            share(member, self.conditions, at)
        signal = MixtureSignal(
            [member.signal for member in members],
            options.weights or [1.0] * len(members),
            options.temperatures or [1.0] * len(members),
            options.weighting,
        )
        flops = [member.facts.flops for member in members]
        facts = self._facts_of(
            signal,
            done,
            at,
            parameters=sum(member.facts.parameters for member in members),
            flops=None if None in flops else sum(each or 0 for each in flops),
            seconds=sum(member.facts.seconds or 0.0 for member in members),
            members=dict(zip(options.members, (each.facts for each in members), strict=True)),
        )
        return Prepared(facts, sum(member.step_flops for member in members), signal)


def share(teacher: Prepared, conditions: Conditions, at: Context) -> None:
    """Leave each rank its share of a teacher, if that is asked for."""
    wrapped = teacher.wrapped and teacher.wrapped()
    if wrapped:
        conditions.share_teacher(wrapped, at.machine, at.ranks)


def teacher_stages(
    options: Teacher,
    each: Mapping[str, SingleTeacher],
    conditions: Conditions,
    corpus: CorpusStage,
) -> list[TeacherStage]:
    """Return the stages after which the last one's artifact is the teacher; none for none.

    each: every single teacher, with the setting that its own settings begin with.
    """
    if not isinstance(options, SeveralTeachers):
        return [_stage("teacher", teacher, conditions, corpus) for teacher in each.values()]
    members = [
        _stage(f"teacher {number}", teacher, conditions, corpus)
        for number, teacher in enumerate(each.values(), 1)
    ]
    mixture = MixtureStage(
        name="teacher", options=options, members=members, conditions=conditions, corpus=corpus
    )
    return [*members, mixture]


def _stage(
    name: str, options: SingleTeacher, conditions: Conditions, corpus: CorpusStage
) -> TeacherStage:
    if isinstance(options, MadeTeacher):
        text = None
        if options.data is not None and options.budget > 0:
            text = TextStage(name=name, data=options.data, corpus=corpus)
        return TrainedStage(
            name=name, options=options, text=text, conditions=conditions, corpus=corpus
        )
    if isinstance(options, CheckpointTeacher):
        return OpenedStage(
            name=name,
            options=options,
            setting=path_setting(name),
            conditions=conditions,
            corpus=corpus,
        )
    assert isinstance(options, VirtualTeacher), "each kind of teacher has a stage of its own"
    return VirtualStage(name=name, options=options, conditions=conditions, corpus=corpus)


def step_at(budget: float, max_steps: int) -> int:
    """Return the first step at which so much is done."""
    return math.ceil(round(budget * max_steps, 6))


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


@contextlib.contextmanager
def _about_teachers_text() -> Iterator[None]:
    """Let a mistake in ``teacher.data`` not be taken for one in ``data``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"teacher.data: {error}") from error
