"""The stages of the teacher: a model that is trained here or opened, a mixture, or no model.

One pre-training serves every ``teacher.budget``: the model is kept at a fixed grid of shares of
it, beside the finished one, in the cache.
"""

import json
import math
import shutil
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.config.run import path_setting
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.loss import DistillationLoss
from dwt_cli.distill.teacher.options import (
    BUDGETS,
    CheckpointTeacher,
    CombinedTeacher,
    MadeTeacher,
    ModelTeacher,
    SignalTeacher,
    Teacher,
)
from dwt_cli.distill.teacher.signal import ModelSignal, TeacherSignal
from dwt_cli.evaluate.lm import metrics_of
from dwt_cli.models.checkpoint import open_folder, open_model, provenance, save_model
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.making import make_model, outline
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe import formerly
from dwt_cli.recipe.corpus import CorpusStage, TeachersText
from dwt_cli.recipe.shapes import Conditions
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.summary import Facts
from dwt_cli.training.parallel import shard
from dwt_cli.training.snapshots import place_of


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

    def share(self, conditions: Conditions, at: Context) -> None:
        """Leave each rank its share of the model, if that is asked for."""
        sharding, wrapped = conditions.parallel.sharding(at.ranks.size), self.wrapped
        if sharding and sharding.shard_teacher and wrapped and (model := wrapped()):
            shard(model, nn.ModuleDict(), sharding, at.machine.device, at.machine.dtype)


@dataclass(frozen=True)
class TeacherStage(Stage):
    """A teacher, until it can be asked."""

    name: str
    corpus: CorpusStage
    conditions: Conditions

    @property
    @abstractmethod
    def each(self) -> "Sequence[SingleStage]":
        """The stages of the single teachers."""

    @property
    def identities(self) -> list[str]:
        """The fingerprints of the single teachers."""
        return [teacher.identity for teacher in self.each]

    def known_facts(self, cache: Cache) -> Facts | None:
        """Return the facts of one that was trained to its end before; else None."""
        return None

    @abstractmethod
    def carry_out(self, done: Done, at: Context) -> Prepared:
        """Return the teacher. All ranks are here."""

    def _evaluated(self, signal: TeacherSignal, done: Done, at: Context) -> dict[str, float]:
        """Return the held-out metrics of what has no one model: of its answers."""
        heldout = self.conditions.heldout(done[self.corpus.name], at.ranks.size)
        metrics = metrics_of(lambda b: signal(b).targets.dense(), heldout, at.machine.device)
        at.show.update(self.name, 1.0, f"held-out {metrics['loss']:.3f}")
        return metrics


@dataclass(frozen=True)
class SingleStage(TeacherStage):
    """One source of soft targets. Its temperature is no part of its identity: it is applied."""

    options: Teacher

    @property
    def each(self) -> "Sequence[SingleStage]":
        return [self]


@dataclass(frozen=True)
class SignalStage(SingleStage):
    """A teacher that is no model: its options say what identifies it, and open its signal."""

    options: SignalTeacher

    @cached_property
    def identity(self) -> str:
        return self.options.identity()

    def carry_out(self, done: Done, at: Context) -> Prepared:
        signal = self.options.open(self.conditions.data.vocab_size)
        return Prepared(Facts(0, self._evaluated(signal, done, at), flops=0), 0, signal)


@dataclass(frozen=True)
class ModelStage(SingleStage):
    """A teacher that is one model."""

    options: ModelTeacher

    @abstractmethod
    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return the model, and its facts; ``heldout`` may be lacking."""

    def carry_out(self, done: Done, at: Context) -> Prepared:
        model, facts = self.model(done, at)
        wrapped = self.conditions.wrapped(model, at.machine).to(at.machine.device)
        if "heldout" not in facts:
            facts["heldout"] = self.conditions.evaluation(done[self.corpus.name], at)(wrapped)
        facts["parameters"] = num_parameters(model)
        at.show.update(self.name, 1.0, f"held-out {facts['heldout']['loss']:.3f}")
        signal = ModelSignal(wrapped, self.options.temperature)
        flops = self.conditions.step_flops(model)
        return Prepared(Facts.from_json(facts), flops, signal, weakref.ref(wrapped))


@dataclass(frozen=True)
class OpenedStage(ModelStage):
    """A teacher that exists."""

    options: CheckpointTeacher

    @cached_property
    def identity(self) -> str:
        return fingerprint("checkpoint", provenance(self.options.path, self.options.revision))

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        setting, head = path_setting(self.name), self.conditions.task.head
        return open_model(setting, self.options, head), {"flops": None}


@dataclass(frozen=True)
class TrainedStage(ModelStage):
    """A teacher that is pre-trained here, or left as it is made.

    It is evaluated on the student's held-out text, whatever text it is trained on.
    """

    kind = "teacher"
    options: MadeTeacher

    @cached_property
    def identity(self) -> str:
        """The fingerprint of the pre-training, whatever share of it the budget is."""
        of = self.conditions
        return fingerprint(
            "teacher",
            text=(self.text or self.corpus).identity,
            options=self.pretraining,
            task=of.task,
            optim=of.optim,
            train=of.lasting(self.options.max_steps),
            # the facts of the training have a held-out loss
            eval=of.eval,
            evaluated_on=self.text and self.corpus.identity,
        )

    @cached_property
    def formerly(self) -> str | None:
        return formerly.of_teacher(self)

    @property
    def pretraining(self) -> MadeTeacher:
        """What the pre-training depends on, whatever becomes of it."""
        return replace(self.options, budget=1.0, temperature=1.0, data=None)

    @cached_property
    def text(self) -> TeachersText | None:
        """Text of its own to be trained on; None: the student's, or no training."""
        data, corpus = self.options.data, self.corpus
        if data is None or self.options.budget == 0:
            return None
        return TeachersText(data, corpus.task, corpus.tokenizer, name=self.name, students=corpus)

    def cost(self, done: Mapping[str, Any]) -> float:
        return self._training_flops if self.options.budget > 0 else 0.0

    @cached_property
    def _training_flops(self) -> float:
        forward = self.conditions.step_flops(outline(self.options))
        return forward * FORWARD_AND_BACKWARD * self.options.max_steps

    def known_facts(self, cache: Cache) -> Facts | None:
        if self.options.budget < 1 or not self.is_kept(cache):
            return None
        return Facts.from_json(_read_facts(self.place(cache)))

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return the model at its budget."""
        options, head = self.options, self.conditions.task.head
        if options.budget == 0:
            return make_model(options, options.seed, "teacher"), {"flops": 0, "steps": 0}
        about = {"options": plain(replace(options, budget=1.0)), "corpus": self.corpus.identity}
        folder = at.trained(self, lambda folder: self._pretrain(done, at, folder), about)
        facts = _read_facts(folder)
        if options.budget == 1:
            return open_folder(folder / "model", head), facts
        step, place = step_at(options.budget, options.max_steps), place_of(folder, options.budget)
        if not place.is_dir():
            raise UserError(
                f"teacher.budget={options.budget:g}: {folder} was trained without keeping the "
                "model on its way; delete it, and it is made again"
            )
        share = step / facts["steps"]
        scaled = {name: facts[name] * share for name in ("epochs", "flops", "seconds")}
        tokens = facts["tokens"] * step // facts["steps"]
        return open_folder(place, head), {"steps": step, "tokens": tokens, **scaled}

    def _pretrain(self, done: Done, at: Context, folder: Path) -> None:
        if at.ranks.from_first("the teacher", (folder / "facts.json").is_file):
            # a start before this one came to the end
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return
        options, conditions = self.options, self.conditions
        corpus: Corpus = done[self.corpus.name]
        text = self.text.carry_out(done, at) if self.text else corpus
        model = make_model(options, options.seed, "teacher")
        wrapped = conditions.wrapped(model, at.machine)
        loss = DistillationLoss(compiled=conditions.train.compile)
        setup = conditions.setup(
            "teacher", self, folder, options.seed, steps=options.max_steps, shares=BUDGETS[1:]
        )
        facts = conditions.fit(setup, wrapped, loss, text, corpus, at, model.save_pretrained)
        if not at.ranks.is_first:
            return
        unit = conditions.task.unit
        draw_curves(folder / "metrics.jsonl", folder / "curves.png", "teacher", {}, unit)
        save_model(model, corpus.tokenizer, folder / "model")
        atomic.write_json(folder / "facts.json", facts.to_json())
        shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it


@dataclass(frozen=True)
class CombinedStage(TeacherStage):
    """A teacher that is made of others. members: their stages, which come before."""

    options: CombinedTeacher
    members: Sequence[SingleStage]

    @cached_property
    def identity(self) -> str:
        return fingerprint("mixture", options=self.options, members=self.identities)

    @property
    def each(self) -> Sequence[SingleStage]:
        return self.members

    def carry_out(self, done: Done, at: Context) -> Prepared:
        members: list[Prepared] = [done[member.name] for member in self.members]
        for member in members:
            member.share(self.conditions, at)
        facts = [member.facts for member in members]
        signal = self.options.combine([member.signal for member in members])
        flops = [each.flops for each in facts]
        mixed = Facts(
            sum(each.parameters for each in facts),
            self._evaluated(signal, done, at),
            flops=None if None in flops else sum(each or 0 for each in flops),
            seconds=sum(each.seconds or 0.0 for each in facts),
            members=dict(zip(self.options.members, facts, strict=True)),
        )
        return Prepared(mixed, sum(member.step_flops for member in members), signal)


_STAGES: dict[type[Teacher], type[SingleStage]] = {
    MadeTeacher: TrainedStage,
    CheckpointTeacher: OpenedStage,
    SignalTeacher: SignalStage,
}


def teacher_stages(
    options: Teacher, corpus: CorpusStage, conditions: Conditions
) -> list[TeacherStage]:
    """Return the stages after which the last one's artifact is the teacher; none for none."""
    each = [teacher for _, teacher in options.each()]
    names = ["teacher"] if each == [options] else [f"teacher {n + 1}" for n in range(len(each))]
    single = [
        next(stage for kind, stage in _STAGES.items() if isinstance(teacher, kind))(
            name, corpus, conditions, teacher
        )
        for name, teacher in zip(names, each, strict=True)
    ]
    if not isinstance(options, CombinedTeacher):
        return [*single]
    return [*single, CombinedStage("teacher", corpus, conditions, options, single)]


def step_at(budget: float, max_steps: int) -> int:
    """Return the first step at which so much is done."""
    return math.ceil(round(budget * max_steps, 6))


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts
