"""A recipe: the stages of a run, each from options to a fingerprinted artifact.

corpus -> teacher -> student. A stage's fingerprint covers its own options and the fingerprints of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli import sealed
from dwt_cli.alpha import Moment, Schedule
from dwt_cli.cache import Cache
from dwt_cli.checks import tokenizer_path
from dwt_cli.config import (
    CheckpointTeacher,
    Fsdp,
    MadeTeacher,
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
from dwt_cli.models.opening import open_folder, open_model, provenance
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.objective.inside import inside_objectives
from dwt_cli.ranks import Ranks
from dwt_cli.remap.remapping import remap
from dwt_cli.tasks.mlm import Lesson, MaskedLanguageModelling
from dwt_cli.teacher.signal import ModelSignal
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.training.contract import Observer
from dwt_cli.training.loop import Length, Training
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.parallel import gather, shard
from dwt_cli.training.state import Checkpoints


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
    """The stages of one run. All ranks go through them together, the first one writes."""

    def __init__(self, run: Run, machine: Machine, cache: Cache, ranks: Ranks) -> None:
        self.run, self.machine, self.cache, self.ranks = run, machine, cache, ranks
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
        heard = (teacher_id, run.alpha, run.objective, run.revise, run.select) if teacher_id else ()
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

        about = {"options": plain(self.run.data)}
        folder = Path(
            self.ranks.once_per_machine(
                "the corpus", lambda: str(self.cache.get("corpus", self.corpus_id, make, about))
            )
        )
        self.ranks.agree({"prepared corpus": sealed.sum_of(folder)})
        corpus = Corpus.open(folder)
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
                self._wrapped(model), self._heldout(corpus), self.machine.device, self.ranks
            )
            return Trained(
                model, {"parameters": num_parameters(model), "heldout": heldout, "flops": None}
            )
        if not isinstance(options, MadeTeacher):
            return None

        def make(folder: Path) -> None:
            if self.ranks.from_first("the teacher", (folder / "facts.json").is_file):
                # a start before this one came to the end
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
                MaskedLanguageModelling(),
                [],
            )
            if not self.ranks.is_first:
                return
            draw_curves(folder / "metrics.jsonl", folder / "curves.png", "teacher", {})
            save_model(model, corpus, folder / "model")
            sealed.write_json(folder / "facts.json", trained)
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

        folder = self._made_together(
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
            if self.ranks.is_first:
                sealed.write_json(folder / "remap.json", plain(vars(account)))
        lesson, taught_flops = None, 0.0
        if teacher is not None:
            lesson, taught_flops = self._lesson(teacher, model.config)
        loss = MaskedLanguageModelling(lesson)
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
        facts["teacher_forward_flops"] = taught_flops * facts["num_taught"]
        return Trained(model, facts)

    def _lesson(self, teacher: Trained, student: PreTrainedConfig) -> tuple[Lesson, float]:
        """What is learned from the teacher, its only holder, and the FLOPs of asking it once."""
        model, run = teacher.take(), self.run
        inside = inside_objectives(run.objective, student, model.config).to(self.machine.device)
        signal = ModelSignal(self._wrapped(model))
        lesson = Lesson(signal, run.alpha, run.objective, inside, run.revise, run.select)
        return lesson, self._step_flops(model)

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
                "heldout": heldout_metrics(wrapped, self._heldout(corpus), self.machine.device),
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
        device, parallel = self.machine.device, self.run.parallel
        if shards := isinstance(parallel, Fsdp) and self.ranks.size > 1:
            wrapped = MaskedLM(copy.deepcopy(model), self.machine.dtype, train.compile)
            shard(wrapped, loss.aux, parallel, device, self.machine.dtype)
        else:
            wrapped = self._wrapped(model)
        heldout = self._heldout(corpus)
        batches = TrainBatches(corpus.train, self._masking(corpus), train.batch_size, seed, stage)
        latest: dict[str, float] = {}

        def evaluate() -> dict[str, float]:
            latest.update(heldout_metrics(wrapped, heldout, device, self.ranks))
            return latest

        writers: list[Observer] = [*observers]
        if self.ranks.is_first:
            writers.insert(0, MetricsLog(folder / "metrics.jsonl", train.log_every))
        before = dict(evaluate())
        training = Training(
            model=wrapped,
            loss=loss,
            batches=batches,
            optimizer=Optimizer(wrapped, self.run.optim, loss.aux),
            clip_norm=self.run.optim.clip_norm,
            options=train,
            length=Length.of(train, batches),
            evaluate=evaluate,
            eval_every=self.run.eval.every,
            checkpoints=Checkpoints(
                folder / "checkpoints", identity, train.keep_checkpoints, display.say, self.ranks
            ),
            observer=_All([TrainingDisplay(display, stage), *writers], at_start=before),
            device=device,
            seed=seed,
            ranks=self.ranks,
        )
        latest.clear()
        counters = training.run()
        if shards:
            gather(wrapped.model, model)
        return {
            "parameters": num_parameters(model),
            "steps": counters.step,
            "tokens": counters.step * batches.tokens_per_step,
            "epochs": counters.step / batches.steps_per_epoch,
            "num_skipped": counters.num_skipped,
            "num_taught": counters.memory.get("num_taught", 0),
            "heldout_at_start": before,
            "heldout": latest or evaluate(),  # nothing was left to train after a restart
            "best_heldout": {"loss": counters.best_loss, "step": counters.best_step},
            "flops": self._step_flops(model) * FORWARD_AND_BACKWARD * counters.step,
            "seconds": counters.elapsed_s,
        }

    def _made_together(
        self, kind: str, identity: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """An artifact of the cache that all ranks make and the first one keeps."""
        made_in: list[str] = []

        def making(folder: Path) -> None:
            made_in.append(str(folder))
            self.ranks.from_first(f"the {kind}'s turn", lambda: str(folder))
            make(folder)

        if self.ranks.is_first:
            place = self.cache.get(kind, identity, making, about)
            if not made_in:
                self.ranks.from_first(f"the {kind}'s turn", lambda: None)
        elif folder := self.ranks.from_first(f"the {kind}'s turn", lambda: None):
            make(Path(folder))
        place = Path(self.ranks.from_first(f"the {kind}", lambda: str(place)))
        if not self.cache.holds(kind, identity):
            raise UserError(
                f"rank {self.ranks.rank} does not see {place}: set run.cache to a folder that all "
                "nodes share"
            )
        return place

    # ------------------------------------------------------------------------- small parts

    def _wrapped(self, model: PreTrainedModel) -> MaskedLM:
        wrapped = MaskedLM(model, self.machine.dtype, self.run.train.compile)
        return wrapped.to(self.machine.device)

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
            self.run.train.micro_batch_size or self.run.train.batch_size // self.ranks.size,
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
