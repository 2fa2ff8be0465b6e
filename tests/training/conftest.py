"""A training of a tiny student on the tiny corpus, with any of its parts exchanged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant, Schedule
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.features import parts_for
from dwt_cli.distill.objective.hidden import Hidden
from dwt_cli.distill.teacher.options import ModelTeacher, Online
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Targets
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.loop import Training
from dwt_cli.training.options import AdamW, Fsdp, Muon, Optim, Parallel, Train
from dwt_cli.training.parallel import shard
from dwt_cli.training.protocols import Moment
from tests.conftest import VOCAB_SIZE, tiny_architecture

CPU = torch.device("cpu")
OPTIMISERS: dict[str, Optim] = {
    "adamw": AdamW(lr=5e-3, warmup=0.2, decay=0.8),
    "muon": Muon(lr=5e-3, warmup=0.2, decay=0.5, hidden_weight_decay=0.01),
}


@dataclass
class Watcher:
    """An observer that keeps the metrics; ``then`` is called after each step."""

    starts: list[int] = field(default_factory=list)
    steps: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    then: Callable[[int], None] = lambda step: None

    def resumed(self, step: int) -> None:
        self.starts.append(step)

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        self.steps.append((step, progress, dict(metrics)))
        self.then(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.evaluations.append((step, dict(metrics)))

    def losses(self) -> list[float]:
        return [metrics["loss"] for _, _, metrics in self.steps]


class Crashed(Exception):
    pass


def crash_after(number: int) -> Callable[[int], None]:
    def then(step: int) -> None:
        if step == number:
            raise Crashed

    return then


@dataclass
class Late(Schedule):
    """The teacher, and with it the projection of hidden states, begins after four steps of six."""

    def soft_at(self, moment: Moment) -> float:
        return float(moment.progress > 0.6)


WITH_PROJECTIONS = {"logits": ForwardKL(), "hidden": Hidden(pairs=[[0, 0], [-1, -1]])}


@pytest.fixture(scope="session")
def watcher() -> type[Watcher]:
    return Watcher


@pytest.fixture
def training(tmp_path: Path, corpus: Corpus, masking: Masking) -> Callable[..., Training]:
    """``training(**changes)``: fresh parts each time, checkpoints below ``folder``."""

    def make(*positional: Any, folder: str = "checkpoints", **named: Any) -> Training:
        return make_training(tmp_path / folder, corpus, masking, *positional, **named)

    return make


def make_training(
    folder: Path,
    corpus: Corpus,
    masking: Targets,
    optim: str | Optim = "adamw",
    family: str = "bert",
    num_parts: int = 1,
    dropout: float = 0.0,
    schedule: Schedule | None = None,
    eval_every: int = 100,
    observer: Any = None,
    objectives: dict[str, Objective] | None = None,
    ranks: Ranks = ALONE,
    parallel: Parallel | None = None,
    device: torch.device = CPU,
    compiled: bool = False,
    online: Online = Online.none,
    **train: Any,
) -> Training:
    """A training of fresh parts, with checkpoints in ``folder``."""
    options = Train(
        **{
            "max_steps": 6,
            "epochs": None,
            "batch_size": 8,
            "micro_batch_size": 8 // num_parts,
            "checkpoint_every": 100,
            "log_every": 1,
            **train,
        }
    )
    rules = OPTIMISERS[optim] if isinstance(optim, str) else optim
    student, weak = tiny_architecture(family, dropout=dropout), tiny_architecture(family, 1)
    model = LanguageModel(make_model(student, 0, "student"), torch.float32).to(device)
    if compiled:
        model.compile_layers()
    teacher = LanguageModel(make_model(weak, 0, "teacher"), torch.float32).to(device)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(4)  # a teacher with an opinion
    batches = TrainBatches(corpus.train, masking, options.batch_size, 0, "student")
    heldout = HeldoutBatches(corpus.heldout, masking, 8, 8)
    compared = objectives or {"logits": ForwardKL(temperature=2.0)}
    parts = parts_for(compared, model.model.config, teacher.model.config)
    signal = ModelTeacher(online=online, rank=2).signal(teacher, VOCAB_SIZE)
    weights = schedule or Constant(soft=1.0)
    loss = DistillationLoss(Distillation(signal, weights, compared, parts))
    loss.aux.to(device)
    if isinstance(parallel, Fsdp):
        if parallel.shard_teacher:
            shard(teacher, nn.ModuleDict(), parallel, device, torch.float32)
        shard(model, loss.aux, parallel, device, torch.float32)
        heldout_metrics(model, heldout, device, ranks)  # as before a training
    return Training(
        model=model,
        loss=loss,
        batches=batches,
        optim=rules,
        options=options,
        evaluate=lambda model: heldout_metrics(model, heldout, device, ranks),
        eval_every=eval_every,
        checkpoints=Checkpoints(folder, "identity", options.keep_checkpoints, print, ranks),
        observers=[observer or Watcher()],
        device=device,
        seed=0,
        ranks=ranks,
    )
