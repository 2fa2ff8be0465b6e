"""The teacher's stage of a recipe: whatever teaches, made or opened, until it can be asked.

One pre-training serves every ``teacher.budget``: the model is kept at a fixed grid of shares of
it, beside the finished one, in the cache.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.config.run import each_teacher
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Data
from dwt_cli.data.source import Source
from dwt_cli.distill.loss import MaskedLanguageModelling
from dwt_cli.distill.teacher.mixture import MixtureSignal
from dwt_cli.distill.teacher.options import (
    BUDGETS,
    CheckpointTeacher,
    MadeTeacher,
    ModelTeacher,
    SeveralTeachers,
    Teacher,
    VirtualTeacher,
)
from dwt_cli.distill.teacher.signal import ModelSignal, Signal
from dwt_cli.distill.teacher.virtual import VirtualSignal
from dwt_cli.evaluate.lm import metrics_of
from dwt_cli.evaluate.snapshots import place_of
from dwt_cli.models.checkpoint import open_folder, open_model, provenance, save_model
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import make_model
from dwt_cli.recipe.stage import Job, Workshop
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.display import Display


@dataclass
class Prepared:
    """A teacher that can be asked.

    facts: what a summary says of it, its own held-out loss among them. step_flops: what its signal
    costs for a step's batch. model: the one whose weights remap may copy; None where there is not
    one. share: what leaves each rank its share of the model, after that. `take` hands the signal on
    to who will release it.
    """

    facts: dict[str, Any]
    step_flops: float
    signal: Signal | None
    model: PreTrainedModel | None = None
    share: Callable[[], None] | None = None

    def take(self) -> Signal:
        """The signal; neither it nor its model is kept here any longer."""
        signal, share = self.signal, self.share
        self.signal = self.model = self.share = None
        assert signal is not None, "it was taken before"
        if share is not None:
            share()
        return signal


class Teachers:
    """Everything that teaches in one run."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop, self._options = workshop, workshop.run.teacher
        self._sources = {
            name: _source(teacher.data)
            for name, teacher in self.made.items()
            if teacher.data is not None
        }

    @cached_property
    def made(self) -> dict[str, MadeTeacher]:
        """Those that are trained here, by the name of their stage: teacher, or teacher 1, ..."""
        return {
            name: teacher
            for name, teacher in self._by_stage.items()
            if isinstance(teacher, MadeTeacher) and teacher.budget > 0
        }

    @cached_property
    def _by_stage(self) -> dict[str, Teacher]:
        several = isinstance(self._options, SeveralTeachers)
        return {
            f"teacher {number}" if several else "teacher": teacher
            for number, (_, teacher) in enumerate(each_teacher(self._shop.run), 1)
        }

    # ------------------------------------------------------------------------ what they are

    def identities(self) -> tuple[str, ...]:
        """What determines the models, one fingerprint for each; nothing for teacher=none."""
        return tuple(self.identity(stage) for stage in self._by_stage)

    def identity(self, stage: str) -> str:
        """Of what is made or opened for one teacher; its budget and temperature are not in it."""
        teacher, run = self._by_stage[stage], self._shop.run
        if isinstance(teacher, CheckpointTeacher):
            return fingerprint("checkpoint", provenance(teacher.path, teacher.revision))
        if not isinstance(teacher, MadeTeacher):
            return fingerprint("virtual")
        return fingerprint(
            "teacher",
            self._text_id(stage) if stage in self._sources else self._shop.corpus_id,
            replace(teacher, budget=1.0, temperature=1.0, data=None),
            run.task,
            run.optim,
            self._shop.lasting(teacher.max_steps),
            run.eval,  # its facts have a held-out loss
        )

    def _text_id(self, stage: str) -> str:
        data, source = self.made[stage].data, self._sources[stage]
        return fingerprint(
            "teacher's text",
            corpora.BUILDER_VERSION,
            source.provenance(),
            data,
            self._shop.corpus_id,  # its tokenizer
        )

    def known_facts(self) -> dict[str, Any] | None:
        """Of one that was trained here to its end; None for others, or if it is gone."""
        teacher = self.made.get("teacher")
        if teacher is None or teacher.budget < 1:
            return None
        place = self._shop.cache.place("teacher", self.identity("teacher"))
        return _read_facts(place) if atomic.is_sealed(place) else None

    # --------------------------------------------------------------------- getting them ready

    def prepare(self, corpus: Corpus, display: Display) -> Prepared | None:
        """The teacher of the run; None for teacher=none."""
        members = [self._one(stage, corpus, display) for stage in self._by_stage]
        if isinstance(self._options, SeveralTeachers):
            return self._mixture(self._options, members, corpus)
        return members[0] if members else None

    def _one(self, stage: str, corpus: Corpus, display: Display) -> Prepared:
        options = self._by_stage[stage]
        if isinstance(options, VirtualTeacher):
            signal = VirtualSignal(options.confidence, self._shop.run.data.vocab_size)
            return Prepared(self._facts_of_signal(signal, corpus, parameters=0, flops=0), 0, signal)
        assert isinstance(options, ModelTeacher)
        if isinstance(options, MadeTeacher):
            model, facts = self._made(stage, options, corpus, display)
        else:
            assert isinstance(options, CheckpointTeacher)
            setting = "teacher.path" if stage == "teacher" else "teacher.members"
            model, facts = open_model(setting, options), {"flops": None}
        wrapped = self._shop.wrapped(model).to(self._shop.machine.device)
        if "heldout" not in facts:
            facts["heldout"] = self._shop.heldout_metrics(wrapped, corpus)
        facts["parameters"] = num_parameters(model)
        if stage in self.made:
            display.update(stage, 1.0, f"held-out {facts['heldout']['loss']:.3f}")
        return Prepared(
            facts,
            self._shop.step_flops(model),
            ModelSignal(wrapped, options.temperature),
            model,
            lambda: self._shop.share_teacher(wrapped),
        )

    def _mixture(
        self, options: SeveralTeachers, members: list[Prepared], corpus: Corpus
    ) -> Prepared:
        flops = [member.facts["flops"] for member in members]
        signal = MixtureSignal(
            [member.take() for member in members],
            options.weights or [1.0] * len(members),
            options.temperatures or [1.0] * len(members),
            options.weighting,
        )
        facts = self._facts_of_signal(
            signal,
            corpus,
            parameters=sum(member.facts["parameters"] for member in members),
            flops=None if None in flops else sum(flops),
            seconds=sum(member.facts.get("seconds", 0.0) for member in members),
            members=dict(zip(options.members, (each.facts for each in members), strict=True)),
        )
        return Prepared(facts, sum(member.step_flops for member in members), signal)

    def _facts_of_signal(self, signal: Signal, corpus: Corpus, **facts: Any) -> dict[str, Any]:
        heldout = metrics_of(signal, self._shop.heldout(corpus), self._shop.machine.device)
        return {**facts, "heldout": heldout}

    # --------------------------------------------------------------------------- making one

    def _made(
        self, stage: str, options: MadeTeacher, corpus: Corpus, display: Display
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The model at its budget, and its facts; those of a snapshot lack ``heldout``."""
        if options.budget == 0:
            return make_model(options, options.seed, "teacher"), {"flops": 0, "steps": 0}
        folder = self._shop.trained(
            "teacher",
            self.identity(stage),
            lambda folder: self._pretrain(stage, options, corpus, display, folder),
            {"options": plain(replace(options, budget=1.0)), "corpus": self._shop.corpus_id},
        )
        facts = _read_facts(folder)
        if options.budget == 1:
            return open_folder(folder / "model"), facts
        step, place = _step_at(options.budget, options.max_steps), place_of(folder, options.budget)
        if not place.is_dir():
            raise UserError(
                f"teacher.budget={options.budget:g}: {folder} was trained without keeping the "
                "model on its way; delete it, and it is made again"
            )
        share = step / facts["steps"]
        scaled = {name: facts[name] * share for name in ("epochs", "flops", "seconds")}
        tokens = facts["tokens"] * step // facts["steps"]
        return open_folder(place), {"steps": step, "tokens": tokens, **scaled}

    def _pretrain(
        self, stage: str, options: MadeTeacher, corpus: Corpus, display: Display, folder: Path
    ) -> None:
        shop = self._shop
        if shop.ranks.from_first("the teacher", (folder / "facts.json").is_file):
            # a start before this one came to the end
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            return
        model = make_model(options, options.seed, "teacher")
        job = Job(
            purpose="teacher",
            shown_as=stage,
            identity=self.identity(stage),
            folder=folder,
            seed=options.seed,
            train=self._shop.lasting(options.max_steps),
            optim=self._shop.run.optim,
        )
        facts = self._shop.train(
            job,
            self._shop.wrapped(model),
            MaskedLanguageModelling(compiled=self._shop.run.train.compile),
            self._text(stage, options, corpus, display),
            display,
            save=model.save_pretrained,
            at=BUDGETS[1:],
        )
        if not shop.ranks.is_first:
            return
        draw_curves(folder / "metrics.jsonl", folder / "curves.png", "teacher", {})
        save_model(model, corpus, folder / "model")
        atomic.write_json(folder / "facts.json", facts)
        shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

    def _text(self, stage: str, options: MadeTeacher, corpus: Corpus, display: Display) -> Corpus:
        """What a teacher is trained on; it is looked at on the student's held-out text always."""
        data = options.data
        if data is None:
            return corpus

        def advance(done: int, total: int) -> None:
            display.update(stage, 0.0, f"reading its text {done / total if total else 0:.0%}")

        def make(folder: Path) -> None:
            tokenizer = self._shop.cache.place("corpus", self._shop.corpus_id) / "tokenizer"
            source = self._sources[stage]
            corpora.build(
                source,
                data,
                self._shop.run.task.frame,
                str(tokenizer),
                folder,
                advance,
                display.say,
            )

        about = {"options": plain(data)}
        with _about_teachers_text():
            text = self._shop.prepared("corpus", self._text_id(stage), make, about)
        return replace(corpus, train=Corpus.open(text).train)


def _step_at(budget: float, max_steps: int) -> int:
    """The first step at which so much is done."""
    return math.ceil(round(budget * max_steps, 6))


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def _source(data: Data) -> Source:
    with _about_teachers_text():
        return corpora.open_source(data)


@contextlib.contextmanager
def _about_teachers_text() -> Iterator[None]:
    """A mistake in ``teacher.data`` is not mistaken for one in ``data``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"teacher.data: {error}") from error
