"""What every stage of a recipe works with: the run's text, its machine, one way to train."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
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
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.config.run import Run
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.loss import MaskedLanguageModelling
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.evaluate.snapshots import Snapshots, snapshots_of
from dwt_cli.models.checkpoint import provenance
from dwt_cli.models.features import Features
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops, num_parameters
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.recipe.preflight import tokenizer_path
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.loop import Length, Training
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import Fsdp, Optim, Train
from dwt_cli.training.parallel import load_state, shard, state_on_first
from dwt_cli.training.protocols import Observer


@dataclass(frozen=True)
class Job:
    """One training: where it keeps its state, how long it lasts and at what rates.

    purpose, seed: what its randomness is a function of. identity: what it is; checkpoints of
    another are refused. shown_as: its name on the display.
    """

    purpose: str
    shown_as: str
    identity: str
    folder: Path
    seed: int
    train: Train
    optim: Optim


class Workshop:
    """The run's options and what comes of them; the stages add nothing to it.

    All ranks go through the stages together, the first one writes.
    """

    def __init__(self, run: Run, machine: Machine, cache: Cache, ranks: Ranks = ALONE) -> None:
        self.run, self.machine, self.cache, self.ranks = run, machine, cache, ranks
        self._source = corpora.open_source(run.data)

    # ------------------------------------------------------------------------------- the text

    @cached_property
    def corpus_id(self) -> str:
        """What determines the text, its tokens and its split."""
        path = tokenizer_path(self.run)
        data = replace(self.run.data, tokenizer=None)
        return fingerprint(
            "corpus",
            corpora.BUILDER_VERSION,
            self._source.provenance(),
            data,
            path and provenance(path),
        )

    def corpus(self, display: Display) -> Corpus:
        """Text to packed blocks, once."""
        started = time.perf_counter()

        def advance(done: int, total: int) -> None:
            display.update("corpus", min(0.99, done / total) if total else 0.0, "reading text")

        def make(folder: Path) -> None:
            corpora.build(
                self._source,
                self.run.data,
                self.run.task.frame,
                tokenizer_path(self.run),
                folder,
                advance,
                display.say,
            )

        about = {"options": plain(self.run.data)}
        corpus = Corpus.open(self.prepared("corpus", self.corpus_id, make, about))
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

    def prepared(
        self, kind: str, identity: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """An artifact of the cache that one rank of each machine makes, and all open."""
        folder = Path(
            self.ranks.once_per_machine(
                f"the {kind}", lambda: str(self.cache.get(kind, identity, make, about))
            )
        )
        self.ranks.agree({f"prepared {kind}": atomic.sum_of(folder)})
        return folder

    def trained(
        self, kind: str, identity: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """An artifact of the cache that all ranks make together and the first one writes."""
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

    def _warn_of_few_heldout(self, there: int, display: Display) -> None:
        wanted = self.run.eval.num_blocks
        said = any(override.startswith("eval.num_blocks=") for override in self.run.overrides)
        if said and wanted > there:
            display.say(
                f"warning: eval.num_blocks={wanted} has no effect above the {there} held-out "
                "blocks there are; raise data.heldout_fraction"
            )

    def wrapped(self, model: PreTrainedModel) -> MaskedLM:
        """The model as it is called, where it is: `train` brings it to the device."""
        return MaskedLM(model, self.machine.dtype, self.run.train.compile)

    def heldout(self, corpus: Corpus) -> HeldoutBatches:
        return HeldoutBatches(
            corpus.heldout,
            self.run.task.targets(corpus.tokenizer),
            self.run.eval.num_blocks,
            self.run.train.micro_batch_size or self.run.train.batch_size // self.ranks.size,
        )

    def heldout_metrics(self, model: MaskedLM, corpus: Corpus) -> dict[str, float]:
        """Of a model on the student's held-out text; see `dwt_cli.evaluate.lm`."""
        return heldout_metrics(model, self.heldout(corpus), self.machine.device, self.ranks)

    def share_teacher(self, wrapped: MaskedLM) -> None:
        """Leave each rank its share of a teacher, if that is asked for."""
        parallel = self.run.parallel
        if isinstance(parallel, Fsdp) and parallel.shard_teacher and self.ranks.size > 1:
            nothing_beside = nn.ModuleDict()
            shard(wrapped, nothing_beside, parallel, self.machine.device, self.machine.dtype)

    # ----------------------------------------------------------------------------- the training

    def step_flops(self, model: PreTrainedModel, seen: Features | None = None) -> float:
        """Of one forward pass of a model over the batch of a step; ``seen``: inside of it."""
        length = self.run.data.block_length
        num_targets = self.run.task.num_targets(length)
        return forward_flops(model, self.run.train.batch_size, length, num_targets, seen)

    def lasting(self, steps: int) -> Train:
        """The run's way of training, for a length of its own."""
        return replace(self.run.train, max_steps=steps, epochs=None, max_minutes=None)

    def train(
        self,
        job: Job,
        wrapped: MaskedLM,
        loss: MaskedLanguageModelling,
        corpus: Corpus,
        display: Display,
        save: Callable[[Path], None] | None = None,
        at: Sequence[float] = (),
    ) -> dict[str, Any]:
        """Run the loop on a model, from wherever an earlier start has come to; its facts.

        A model that is sharded comes from CPU memory, and when this returns it is there again, on
        rank 0 alone. save, at: the model on its way is written so, at these shares of the training.
        """
        device, parallel = self.machine.device, self.run.parallel
        whole = wrapped.model
        facts = {"parameters": num_parameters(whole)}
        step_flops = self.step_flops(whole) * FORWARD_AND_BACKWARD
        if shards := isinstance(parallel, Fsdp) and self.ranks.size > 1:
            wrapped.cpu()  # remap has looked at it on the device
            if self.ranks.is_first:
                wrapped = MaskedLM(copy.deepcopy(whole), self.machine.dtype)
            shard(wrapped, loss.aux, parallel, device, self.machine.dtype)
        else:
            wrapped.to(device)
        heldout = self.heldout(corpus)
        batches = TrainBatches(
            corpus.train,
            self.run.task.targets(corpus.tokenizer),
            job.train.batch_size,
            job.seed,
            job.purpose,
        )
        latest: dict[str, float] = {}

        def evaluate() -> dict[str, float]:
            latest.update(heldout_metrics(wrapped, heldout, device, self.ranks))
            return latest

        def update_whole() -> None:
            if shards and (state := state_on_first(wrapped.model)):
                load_state(whole, state)

        writers: list[Observer] = []
        if self.ranks.is_first:
            writers = [MetricsLog(job.folder / "metrics.jsonl", job.train.log_every)]
        if save is not None:
            folder = snapshots_of(job.folder)
            writers.append(Snapshots(save, folder, at, update_whole, self.ranks))
        before = dict(evaluate())
        training = Training(
            model=wrapped,
            loss=loss,
            batches=batches,
            optimizer=Optimizer(wrapped, job.optim, loss.aux),
            clip_norm=job.optim.clip_norm,
            options=job.train,
            length=Length.of(job.train, batches),
            evaluate=evaluate,
            eval_every=self.run.eval.every,
            checkpoints=Checkpoints(
                job.folder / "checkpoints",
                job.identity,
                job.train.keep_checkpoints,
                display.say,
                self.ranks,
            ),
            observer=_All([TrainingDisplay(display, job.shown_as), *writers], at_start=before),
            device=device,
            seed=job.seed,
            ranks=self.ranks,
        )
        latest.clear()
        counters = training.run()
        update_whole()
        return facts | {
            "steps": counters.step,
            "tokens": counters.step * batches.tokens_per_step,
            "epochs": counters.step / batches.steps_per_epoch,
            "num_skipped": counters.num_skipped,
            "num_taught": counters.memory.get("num_taught", 0),
            "heldout_at_start": before,
            "heldout": latest or evaluate(),  # nothing was left to train after a restart
            "best_heldout": {"loss": counters.best_loss, "step": counters.best_step},
            "flops": step_flops * counters.step,
            "seconds": counters.elapsed_s,
        }


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
