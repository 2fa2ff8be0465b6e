"""A recipe: the stages of a run, each from options to a fingerprinted artifact.

corpus -> teacher -> student. A stage's fingerprint covers its own options and the fingerprints of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dwt_cli import sealed
from dwt_cli.alpha import Constant, Moment, Schedule
from dwt_cli.cache import Cache
from dwt_cli.checks import tokenizer_path
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
from dwt_cli.evaluate.snapshots import Snapshots, snapshots_of
from dwt_cli.machine import Machine
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops, num_parameters
from dwt_cli.models.making import make_model, outline
from dwt_cli.models.opening import open_folder, open_model, provenance
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


@dataclass
class Trained:
    """A model and what is known about it; ``facts`` is what a summary says of it.

    `take` hands the model on to who will release it.
    """

    model: PreTrainedModel | None
    facts: dict[str, Any]

    def take(self) -> PreTrainedModel:
        """The model, which is not kept here any longer."""
        model, self.model = self.model, None
        assert model is not None, "it was taken before"
        return model


class Recipe:
    """The stages of one run."""

    def __init__(self, run: Run, machine: Machine, cache: Cache) -> None:
        self.run, self.machine, self.cache = run, machine, cache
        self.source = corpora.open_source(run.data)

    # ------------------------------------------------------------------------ what it is

    @cached_property
    def corpus_id(self) -> str:
        path = tokenizer_path(self.run)
        data = replace(self.run.data, tokenizer=None)
        return fingerprint(
            "corpus",
            corpora.BUILDER_VERSION,
            self.source.provenance(),
            data,
            path and provenance(path),
        )

    @cached_property
    def teacher_id(self) -> str | None:
        teacher = self.run.teacher
        if isinstance(teacher, MadeTeacher):
            train = replace(
                self.run.train, max_steps=teacher.max_steps, epochs=None, max_minutes=None
            )
            return fingerprint(
                "teacher",
                self.corpus_id,
                teacher,
                self.run.task,
                self.run.optim,
                train,
                self.run.eval,  # its facts have a held-out loss
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

    # ------------------------------------------------------------------- what it will take

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
                self.source, self.run.data, tokenizer_path(self.run), folder, advance, display.say
            )

        corpus = Corpus.open(
            self.cache.get("corpus", self.corpus_id, make, {"options": plain(self.run.data)})
        )
        self._warn_of_few_heldout(len(corpus.heldout), display)
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

    def _warn_of_few_heldout(self, there: int, display: Display) -> None:
        wanted = self.run.eval.num_blocks
        said = any(override.startswith("eval.num_blocks=") for override in self.run.overrides)
        if said and wanted > there:
            display.say(
                f"warning: eval.num_blocks={wanted} has no effect above the {there} held-out "
                "blocks there are; raise data.heldout_fraction"
            )

    def teacher(self, corpus: Corpus, display: Display) -> Trained | None:
        """A model that exists, or one that is pre-trained once by the same loop."""
        options = self.run.teacher
        if isinstance(options, CheckpointTeacher):
            model = open_model(options)
            heldout = heldout_metrics(
                self._wrapped(model), self.heldout(corpus), self.machine.device
            )
            return Trained(
                model, {"parameters": num_parameters(model), "heldout": heldout, "flops": None}
            )
        if not isinstance(options, MadeTeacher):
            return None

        def make(folder: Path) -> None:
            if (folder / "facts.json").is_file():  # a start before this one came to the end
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                return
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
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

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
        if self.run.remap.rule != "random":
            assert teacher is not None and teacher.model is not None
            account = remap(model, teacher.model, self.run.remap.rule)
            sealed.write_json(folder / "remap.json", plain(vars(account)))
        signal: Signal | None = None
        schedule: Schedule = _ALONE
        taught_flops = 0.0
        if teacher is not None:
            schedule = self.run.alpha
            signal, taught_flops = self._signal(teacher)
        loss = MaskedLanguageModelling(schedule, self.run.objective, signal)
        keep = Snapshots(
            lambda place: save_model(model, corpus, place), snapshots_of(folder), self.run.eval.at
        )
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
            [keep, *observers],
        )
        facts["teacher_forward_flops"] = taught_flops * _num_taught(schedule, facts["steps"])
        return Trained(model, facts)

    def _signal(self, teacher: Trained) -> tuple[Signal, float]:
        """The teacher's signal, its only holder from here on, and the FLOPs of asking it once."""
        model = teacher.take()
        return ModelSignal(self._wrapped(model)), self._step_flops(model)

    def student_so_far(self, corpus: Corpus, folder: Path, say: Callable[[str], None]) -> Trained:
        """The student of the newest checkpoint below ``folder``, trained no further."""
        model = make_model(self.run.student, self.run.seed, "student")
        wrapped = self._wrapped(model)
        train = self.run.train
        checkpoints = Checkpoints(
            folder / "checkpoints", self.student_id, train.keep_checkpoints, say
        )
        counters = checkpoints.restore_model(wrapped)
        if counters is None:
            raise UserError(f"{folder} has no whole checkpoint: train first")
        tokens_per_step = train.batch_size * self.run.data.block_length
        return Trained(
            model,
            {
                "parameters": num_parameters(model),
                "steps": counters.step,
                "tokens": counters.step * tokens_per_step,
                "heldout": heldout_metrics(wrapped, self.heldout(corpus), self.machine.device),
            },
        )

    def teacher_facts(self) -> dict[str, Any] | None:
        """What is known about a teacher that was made here; None for others, or if it is gone."""
        place = self.cache.place("teacher", self.teacher_id or "")
        if not isinstance(self.run.teacher, MadeTeacher) or not sealed.is_sealed(place):
            return None
        facts: dict[str, Any] = json.loads((place / "facts.json").read_text(encoding="utf-8"))
        return facts

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
        heldout = self.heldout(corpus)
        batches = TrainBatches(corpus.train, self._masking(corpus), train.batch_size, seed, stage)
        latest: dict[str, float] = {}

        def evaluate() -> dict[str, float]:
            latest.update(heldout_metrics(wrapped, heldout, self.machine.device))
            return latest

        before = dict(evaluate())
        training = Training(
            model=wrapped,
            loss=loss,
            batches=batches,
            optimizer=Optimizer(wrapped, self.run.optim),
            clip_norm=self.run.optim.clip_norm,
            options=train,
            length=Length.of(train, batches),
            evaluate=evaluate,
            eval_every=self.run.eval.every,
            checkpoints=Checkpoints(
                folder / "checkpoints", identity, train.keep_checkpoints, display.say
            ),
            observer=_All(
                [
                    MetricsLog(folder / "metrics.jsonl", train.log_every),
                    TrainingDisplay(display, stage),
                    *observers,
                ],
                at_start=before,
            ),
            device=self.machine.device,
            seed=seed,
        )
        latest.clear()
        counters = training.run()
        return {
            "parameters": num_parameters(model),
            "steps": counters.step,
            "tokens": counters.step * batches.tokens_per_step,
            "epochs": counters.step / batches.steps_per_epoch,
            "num_skipped": counters.num_skipped,
            "heldout_at_start": before,
            "heldout": latest or evaluate(),  # nothing was left to train after a restart
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

    def heldout(self, corpus: Corpus) -> HeldoutBatches:
        """The fixed masked held-out set."""
        return HeldoutBatches(
            corpus.heldout,
            self._masking(corpus),
            self.run.eval.num_blocks,
            self.run.train.micro_batch_size or self.run.train.batch_size,
        )


class _All:
    """Several observers as one; a training that begins is told of with its first metrics."""

    def __init__(self, observers: list[Observer], at_start: Mapping[str, float]) -> None:
        self._observers, self._at_start = observers, at_start

    def resumed(self, step: int) -> None:
        for observer in self._observers:
            observer.resumed(step)
        if step == 0:
            self.evaluated(0, self._at_start)

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
