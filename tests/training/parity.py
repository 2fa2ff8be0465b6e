"""One training on any number of ranks: what the tests and `benchmarks/parity.py` compare."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Linear
from dwt_cli.distill.objective.attention import Attention
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.hidden import Hidden
from dwt_cli.distill.objective.masked import MaskedHidden, Pool
from dwt_cli.distill.objective.relations import MiniLMv2
from dwt_cli.distill.teacher.options import Online
from dwt_cli.models.options import Family, Head
from dwt_cli.tasks.clm import NextToken
from dwt_cli.training.options import AdamW, Ddp, Fsdp, Muon
from dwt_cli.training.parallel import whole
from tests.conftest import masking_of
from tests.processes import together
from tests.training.conftest import Watcher, make_training

NUM_STEPS, BATCH_SIZE = 20, 16
OPTIMISERS = {
    "adamw": AdamW(lr=5e-3, warmup=0.2, decay=0.8, clip_norm=float("inf")),
    "muon": Muon(lr=5e-3, warmup=0.2, decay=0.5, clip_norm=float("inf")),
}
PARALLEL = {
    "ddp": Ddp(),
    "fsdp": Fsdp(),
    "fsdp, twice": Fsdp(activation_checkpointing=True),
    "fsdp, offloaded": Fsdp(cpu_offload=True, shard_teacher=True),
}


@dataclass(frozen=True)
class Setting:
    """How the same training is carried out. accumulation: micro-batches of each rank."""

    num_ranks: int = 1
    parallel: str = "ddp"
    accumulation: int = 1
    optim: str = "adamw"
    family: str = "modernbert"
    num_steps: int = NUM_STEPS
    checkpoint_every: int = 100
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """losses, heldout: of each step, at the end. gradient: of the first step, by parameter.

    ids: the masked tokens that this rank has read in the first step, one row per sequence.
    """

    losses: list[float]
    heldout: list[dict[str, float]]
    gradient: dict[str, torch.Tensor]
    ids: torch.Tensor


def outcomes(setting: Setting, corpus: Path, folder: Path) -> list[Outcome]:
    """What each rank has seen."""
    if setting.num_ranks == 1 and setting.device == "cpu":
        return [_train(ALONE, setting, corpus, folder)]
    train = _train_in_process
    found = together(setting.num_ranks, train, setting, corpus, folder, device=setting.device)
    return [
        Outcome(
            losses, heldout, {n: torch.from_numpy(g) for n, g in gradient.items()},
            torch.from_numpy(ids),
        )
        for losses, heldout, gradient, ids in found
    ]  # fmt: skip


def relative_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of two gradients, relative to the norm of the second."""
    assert one.keys() == two.keys()
    difference = torch.cat([(one[name] - two[name]).double().flatten() for name in two])
    return float(difference.norm() / torch.cat([g.double().flatten() for g in two.values()]).norm())


def _train_in_process(ranks: Ranks, setting: Setting, corpus: Path, folder: Path) -> Any:
    torch.set_num_threads(1)
    found = _train(ranks, setting, corpus, folder)
    gradient = {name: tensor.numpy() for name, tensor in found.gradient.items()}
    return found.losses, found.heldout, gradient, found.ids.numpy()


def _train(ranks: Ranks, setting: Setting, corpus_folder: Path, folder: Path) -> Outcome:
    corpus = Corpus.open(corpus_folder)
    seen, head = Watcher(), Family[setting.family].predicts
    training = make_training(
        folder,
        corpus,
        NextToken() if head is Head.causal else masking_of(corpus),
        OPTIMISERS[setting.optim],
        setting.family,
        observer=seen,
        schedule=Linear(),
        objectives={
            "logits": ForwardKL(),
            "minilmv2": MiniLMv2(),
            "hidden": Hidden(),
            "attention": Attention(pairs=[[0, 0]]),
            "masked_hidden": MaskedHidden(pool=Pool.row, only_masked=True),
        },
        online=Online.head if setting.family == "modernbert" else Online.lora,
        eval_every=NUM_STEPS,
        ranks=ranks,
        parallel=None if ranks is ALONE else PARALLEL[setting.parallel],
        device=torch.device(setting.device),
        batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE // setting.num_ranks // setting.accumulation,
        max_steps=NUM_STEPS,
        checkpoint_every=setting.checkpoint_every,
    )
    read = _Reading(training.batches)
    training = replace(training, batches=read)
    gradient: dict[str, torch.Tensor] = {}
    _before_the_first_step(training, gradient)
    seen.then = _stop_after(setting.num_steps)
    with contextlib.suppress(_Enough):
        training.run()
    return Outcome(
        seen.losses(), [m for _, m in seen.evaluations], gradient, torch.cat(read.of_first_step)
    )


class _Enough(Exception):
    pass


def _stop_after(num_steps: int) -> Any:
    def then(step: int) -> None:
        if step > num_steps:
            raise _Enough

    return then


class _Reading:
    """Batches that keep what was asked for in the first step."""

    def __init__(self, batches: Any) -> None:
        self._batches, self.of_first_step = batches, [torch.empty(0, 0)]
        self._first: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any:
        batch = self._batches.batch(step, part, num_parts)
        if self._first is None:
            self._first, self.of_first_step = step, []
        if step == self._first:
            self.of_first_step.append(batch.ids_BL)
        return batch


def _before_the_first_step(training: Any, gradient: dict[str, torch.Tensor]) -> None:
    """Have the gradient of the first step copied before the optimiser uses it."""
    step = training.optimizer.step
    modules: dict[str, nn.Module] = {"model": training.model, "aux": training.loss.aux}

    def first() -> None:
        for name, module in modules.items():
            for path, parameter in module.named_parameters():
                assert parameter.grad is not None, f"{path} takes no part"
                gradient[f"{name}.{path}"] = whole(parameter.grad).to("cpu", copy=True)
        training.optimizer.step = step
        step()

    training.optimizer.step = first
