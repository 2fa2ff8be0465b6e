"""A recipe: the stages of a run, each from options to a fingerprinted artifact.

corpus -> teacher -> student. A stage's fingerprint covers its own options and the fingerprints of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dwt_cli import sealed
from dwt_cli.alpha import Constant, Moment, Schedule
from dwt_cli.cache import Cache
from dwt_cli.config import (
    CheckpointTeacher,
    MadeTeacher,
    Objective,
    Remap,
    Run,
    Teacher,
    Train,
    fingerprint,
    plain,
)
from dwt_cli.corpus import corpus as corpora
from dwt_cli.corpus.batches import HeldoutBatches, Masking, TrainBatches
from dwt_cli.corpus.corpus import Corpus
from dwt_cli.errors import UserError
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.machine import Machine
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops, num_parameters
from dwt_cli.models.making import make_model, outline
from dwt_cli.models.opening import open_config, open_folder, open_model, provenance
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.remap.remapping import remap
from dwt_cli.tasks.mlm import MaskedLanguageModelling
from dwt_cli.teacher.signal import ModelSignal, Signal
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.training.contract import Observer
from dwt_cli.training.loop import Length, Training
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.state import Checkpoints

_ALONE = Constant(hard=1.0, soft=0.0)


@dataclass(frozen=True)
class Trained:
    """A model and what is known about it; ``facts`` is what a summary says of it."""

    model: PreTrainedModel
    facts: dict[str, Any]


class Recipe:
    """The stages of one run."""

    def __init__(self, run: Run, machine: Machine, cache: Cache) -> None:
        self.run, self.machine, self.cache = run, machine, cache
        self.source = corpora.open_source(run.data)

    # ------------------------------------------------------------------------ what it is

    @cached_property
    def corpus_id(self) -> str:
        path = self._tokenizer_path
        data = replace(self.run.data, tokenizer=None)
        return fingerprint("corpus", self.source.provenance(), data, path and provenance(path))

    @cached_property
    def teacher_id(self) -> str | None:
        teacher = self.run.teacher
        if isinstance(teacher, MadeTeacher):
            train = replace(
                self.run.train, max_steps=teacher.max_steps, epochs=None, max_minutes=None
            )
            return fingerprint(
                "teacher", self.corpus_id, teacher, self.run.task, self.run.optim, train
            )
        if isinstance(teacher, CheckpointTeacher):
            return fingerprint("checkpoint", provenance(teacher.path, teacher.revision))
        return None

    @cached_property
    def student_id(self) -> str:
        return self._student_id(self.run, self.teacher_id)

    @cached_property
    def stand_alone_id(self) -> str:
        """The student of the same seed, size, text and length without a teacher."""
        return self._student_id(replace(self.run, remap=Remap("random")), None)

    def _student_id(self, run: Run, teacher_id: str | None) -> str:
        heard = (teacher_id, run.alpha, run.objective) if teacher_id else ()
        return fingerprint(
            "student",
            self.corpus_id,
            run.task,
            run.student,
            run.remap,
            run.optim,
            run.train,
            run.eval,
            run.seed,
            *heard,
        )

    @property
    def _tokenizer_path(self) -> str | None:
        if self.run.data.tokenizer is None and isinstance(self.run.teacher, CheckpointTeacher):
            return self.run.teacher.path
        return self.run.data.tokenizer

    # ------------------------------------------------------- what can be checked beforehand

    def check(self) -> None:
        """Open what is small and compare sizes, before any expensive work."""
        vocab_size = self.run.data.vocab_size
        if isinstance(self.run.teacher, CheckpointTeacher):
            theirs = open_config(self.run.teacher).vocab_size
            if theirs != self.run.student.vocab_size:
                raise UserError(
                    f"teacher.path={self.run.teacher.path} has a vocabulary of {theirs}, the "
                    f"student one of {self.run.student.vocab_size}: they must share one; set "
                    f"scale.vocab_size={theirs}"
                )
        if self._tokenizer_path is not None:
            size = len(corpora.open_tokenizer(self._tokenizer_path))
            if size > vocab_size:
                raise UserError(
                    f"tokenizer {self._tokenizer_path} has {size} entries, the models "
                    f"{vocab_size}: set scale.vocab_size={size} or more"
                )

    def work(self) -> dict[str, float]:
        """The stages by name, with the FLOPs of those that train (an estimate, for the ETA)."""
        work = {"corpus": 0.0}
        steps = self.run.train.max_steps or 0
        student = self._step_flops(outline(self.run.student)) * FORWARD_AND_BACKWARD * steps
        if isinstance(self.run.teacher, MadeTeacher):
            forward = self._step_flops(outline(self.run.teacher))
            have = self.cache.holds("teacher", self.teacher_id or "")
            work["teacher"] = (
                0.0 if have else (forward * FORWARD_AND_BACKWARD * self.run.teacher.max_steps)
            )
            student += forward * _num_taught(self.run.alpha, steps)
        return work | {"student": student}

    def _step_flops(self, model: PreTrainedModel) -> float:
        length = self.run.data.block_length
        masking = Masking(self.run.task, self.run.data.vocab_size, 0, ())
        return forward_flops(model, self.run.train.batch_size, length, masking.num_targets(length))

    # ---------------------------------------------------------------------------- the stages

    def corpus(self, display: Display) -> Corpus:
        """Text to packed blocks, once."""
        started = time.perf_counter()

        def advance(done: int, total: int) -> None:
            display.update("corpus", min(0.99, done / total) if total else 0.0, "reading text")

        def make(folder: Path) -> None:
            corpora.build(
                self.source, self.run.data, self._tokenizer_path, folder, advance, display.say
            )

        corpus = Corpus.open(
            self.cache.get("corpus", self.corpus_id, make, {"options": plain(self.run.data)})
        )
        report = corpus.report
        display.update(
            "corpus",
            1.0,
            (
                f"{report['train_tokens']:,} tokens, vocabulary {report['vocabulary']:,}, "
                f"{time.perf_counter() - started:.0f} s"
            ),
        )
        return corpus

    def teacher(self, corpus: Corpus, display: Display) -> Trained | None:
        """A model that exists, or one that is pre-trained once by the same loop."""
        options = self.run.teacher
        if isinstance(options, CheckpointTeacher):
            model = open_model(options)
            heldout = heldout_metrics(
                self._wrapped(model), self._heldout(corpus), self.machine.device
            )
            return Trained(
                model, {"parameters": num_parameters(model), "heldout": heldout, "flops": None}
            )
        if not isinstance(options, MadeTeacher):
            return None

        def make(folder: Path) -> None:
            model = make_model(options, options.seed, "teacher")
            train = replace(
                self.run.train, max_steps=options.max_steps, epochs=None, max_minutes=None
            )
            trained = self._train(
                "teacher",
                model,
                corpus,
                display,
                folder,
                str(self.teacher_id),
                train,
                options.seed,
                MaskedLanguageModelling(_ALONE, Objective(), None),
                [],
            )
            draw_curves(folder / "metrics.jsonl", folder / "curves.png", "teacher", {})
            save_model(model, corpus, folder / "model")
            sealed.write_json(folder / "facts.json", trained)

        folder = self.cache.get(
            "teacher",
            str(self.teacher_id),
            make,
            {"options": plain(options), "corpus": self.corpus_id},
        )
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        display.update("teacher", 1.0, f"held-out {facts['heldout']['loss']:.3f}")
        return Trained(open_folder(folder / "model"), facts)

    def student(
        self,
        corpus: Corpus,
        teacher: Trained | None,
        display: Display,
        folder: Path,
        observers: list[Observer],
    ) -> Trained:
        """The run itself: its metrics, checkpoints and facts go to ``folder``."""
        model = make_model(self.run.student, self.run.seed, "student")
        account = None
        if self.run.remap.rule != "random":
            assert teacher is not None, "config.check asks for a teacher"
            account = remap(model, teacher.model, self.run.remap.rule)
            sealed.write_json(folder / "remap.json", plain(vars(account)))
        signal: Signal | None = None
        schedule: Schedule = _ALONE
        taught_flops = 0.0
        if teacher is not None:
            schedule = self.run.alpha
            signal = ModelSignal(self._wrapped(teacher.model))
            taught_flops = self._step_flops(teacher.model)
        loss = MaskedLanguageModelling(schedule, self.run.objective, signal)
        facts = self._train(
            "student",
            model,
            corpus,
            display,
            folder,
            self.student_id,
            self.run.train,
            self.run.seed,
            loss,
            observers,
        )
        facts["teacher_forward_flops"] = taught_flops * _num_taught(schedule, facts["steps"])
        return Trained(model, facts)

    def _train(
        self,
        stage: str,
        model: PreTrainedModel,
        corpus: Corpus,
        display: Display,
        folder: Path,
        identity: str,
        train: Train,
        seed: int,
        loss: MaskedLanguageModelling,
        observers: list[Observer],
    ) -> dict[str, Any]:
        """Run the loop on a model; the stage's name is the purpose of its randomness."""
        wrapped = self._wrapped(model)
        heldout = self._heldout(corpus)
        batches = TrainBatches(corpus.train, self._masking(corpus), train.batch_size, seed, stage)
        before = heldout_metrics(wrapped, heldout, self.machine.device)
        training = Training(
            model=wrapped,
            loss=loss,
            batches=batches,
            optimizer=Optimizer(wrapped, self.run.optim),
            clip_norm=self.run.optim.clip_norm,
            options=train,
            length=Length.of(train, batches),
            evaluate=lambda: heldout_metrics(wrapped, heldout, self.machine.device),
            eval_every=self.run.eval.every,
            checkpoints=Checkpoints(
                folder / "checkpoints", identity, train.keep_checkpoints, display.say
            ),
            observer=_All(
                [
                    MetricsLog(folder / "metrics.jsonl", train.log_every),
                    TrainingDisplay(display, stage),
                    *observers,
                ]
            ),
            device=self.machine.device,
            seed=seed,
        )
        counters = training.run()
        return {
            "parameters": num_parameters(model),
            "steps": counters.step,
            "tokens": counters.step * batches.tokens_per_step,
            "epochs": counters.step / batches.steps_per_epoch,
            "num_skipped": counters.num_skipped,
            "heldout_at_start": before,
            "heldout": heldout_metrics(wrapped, heldout, self.machine.device),
            "best_heldout": {"loss": counters.best_loss, "step": counters.best_step},
            "flops": self._step_flops(model) * FORWARD_AND_BACKWARD * counters.step,
            "seconds": counters.elapsed_s,
        }

    # ------------------------------------------------------------------------- small parts

    def _wrapped(self, model: PreTrainedModel) -> MaskedLM:
        return MaskedLM(model, self.machine.dtype).to(self.machine.device)

    def _masking(self, corpus: Corpus) -> Masking:
        tokenizer = corpus.tokenizer
        return Masking(
            self.run.task,
            len(tokenizer),
            tokenizer.mask_token_id,
            tuple(sorted(tokenizer.all_special_ids)),
        )

    def _heldout(self, corpus: Corpus) -> HeldoutBatches:
        return HeldoutBatches(
            corpus.heldout,
            self._masking(corpus),
            self.run.eval.num_blocks,
            self.run.train.micro_batch_size or self.run.train.batch_size,
        )


class _All:
    """Several observers as one."""

    def __init__(self, observers: list[Observer]) -> None:
        self._observers = observers

    def resumed(self, step: int) -> None:
        for observer in self._observers:
            observer.resumed(step)

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.stepped(step, progress, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.evaluated(step, metrics)


def save_model(model: PreTrainedModel, corpus: Corpus, folder: Path) -> None:
    """Model and tokenizer in the hub's format."""
    model.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def is_stand_alone(run: Run) -> bool:
    return type(run.teacher) is Teacher


def _num_taught(schedule: Schedule, num_steps: int) -> int:
    """Steps in which the teacher runs."""
    return sum(schedule.weights(Moment(step / num_steps)).soft != 0 for step in range(num_steps))
