"""The whole resume contract: what a checkpoint holds, and which one is opened.

A checkpoint is a sealed folder ``step-00000400`` with model.safetensors, optimizer.safetensors
and state.json, and aux.safetensors if the loss has trainable parts. It is never a pickle. Its
tensors are whole, however many ranks have trained them: any other number goes on from it.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.parallel import as_sharded, whole


@dataclass
class Counters:
    """Where a training stands.

    step: optimizer steps done. elapsed_s: seconds spent in the loop, earlier starts included.
    num_skipped: steps that were left out because of a non-finite gradient.
    best_loss, best_step: the lowest held-out loss so far, in nats, and where.
    memory: what the loss remembers from step to step.
    """

    step: int = 0
    elapsed_s: float = 0.0
    num_skipped: int = 0
    best_loss: float | None = None
    best_step: int = 0
    memory: dict[str, float] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one training: the last few and the best.

    identity: what the training is; a checkpoint of another one is refused. All ranks save and
    restore; the first one writes, all of them read.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        keep: int,
        say: Callable[[str], None],
        ranks: Ranks = ALONE,
    ) -> None:
        self._folder, self._identity, self._keep, self._say = folder, identity, keep, say
        self._ranks = ranks

    def steps(self) -> list[int]:
        """Steps with a sealed checkpoint, ascending."""
        found = self._folder.glob("step-*")
        return sorted(
            int(path.name.removeprefix("step-")) for path in found if atomic.is_sealed(path)
        )

    def save(
        self, model: nn.Module, aux: nn.Module, optimizer: Optimizer, counters: Counters
    ) -> None:
        """Write a checkpoint in one piece, then drop those that are no longer kept.

        Raises `UserError` when the disk is full; the checkpoints before it stay.
        """
        tensors, scalars = _split_state(optimizer)
        files = {"model": _tensors(model), "aux": _tensors(aux), "optimizer": tensors}
        if not self._ranks.is_first:
            return
        state = {
            "identity": self._identity,
            "counters": dataclasses.asdict(counters),
            "optimizer": scalars,
        }
        aside = self._folder / ".writing"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with atomic.needing_room(self._folder):
                aside.mkdir(parents=True)
                for name, content in files.items():
                    if content:
                        save_file(content, aside / f"{name}.safetensors")
                atomic.write_json(aside / "state.json", state)
                atomic.publish(aside, self._place(counters.step))
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        for step in self.steps()[: -self._keep]:
            if step != counters.best_step:
                shutil.rmtree(self._place(step))

    def restore(self, model: nn.Module, aux: nn.Module, optimizer: Optimizer) -> Counters:
        """Load the newest whole checkpoint; fresh counters when there is none.

        A damaged one is named and set aside, and the one before it is taken.
        """
        name = self._ranks.from_first("the newest checkpoint", self._newest_whole)
        if name is None:
            return Counters()
        place = self._folder / name
        if not atomic.is_sealed(place):
            raise UserError(
                f"rank {self._ranks.rank} does not see {place}: set run.root and run.cache to "
                "folders that all nodes share"
            )
        state = self._state(place)
        _load(model, place / "model.safetensors")
        if aux.state_dict():
            _load(aux, place / "aux.safetensors")
        _join_state(optimizer, load_file(place / "optimizer.safetensors"), state["optimizer"])
        return Counters(**state["counters"])

    def restore_model(self, model: nn.Module) -> Counters | None:
        """Load the model of the newest whole checkpoint alone; None when there is none."""
        if (name := self._newest_whole()) is None:
            return None
        place = self._folder / name
        _load(model, place / "model.safetensors")
        return Counters(**self._state(place)["counters"])

    def drop(self) -> None:
        """Delete all: the training is finished and its model is exported."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _newest_whole(self) -> str | None:
        """The name of the newest whole checkpoint; damaged ones are set aside."""
        steps = self.steps()
        for step in reversed(steps):
            place = self._place(step)
            try:
                atomic.verify(place)
            except atomic.Damaged as damage:
                self._say(f"checkpoint set aside: {damage}")
                aside = self._folder / f"damaged-{place.name}"
                shutil.rmtree(aside, ignore_errors=True)
                place.rename(aside)
            else:
                return place.name
        if steps:
            self._say(f"no whole checkpoint is left in {self._folder}: it starts from step 0")
        return None

    def _state(self, place: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if state["identity"] != self._identity:
            raise UserError(
                f"{place} is a checkpoint of another run: move it back, or set run.fresh=true or "
                "another run.root"
            )
        return state

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers in one piece, a tied one under one name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return {name: whole(tensor.detach()).contiguous() for name, tensor in found.values()}


@torch.no_grad()
def _load(module: nn.Module, file: Path) -> None:
    """Fill a module, whole or sharded, with what `_tensors` has found in one like it."""
    saved = load_file(file)
    ours = module.state_dict(keep_vars=True)
    tied = {id(ours[name]) for name in saved}
    assert tied == {id(tensor) for tensor in ours.values()}, f"{file} is of another model"
    for name, tensor in saved.items():
        ours[name].copy_(as_sharded(tensor, ours[name]))


def _split_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Optimiser state as named tensors and, per torch optimiser, everything else as JSON."""
    tensors, scalars = {}, []
    for number, part in enumerate(optimizer.parts):
        state = part.state_dict()
        for index, entries in state["state"].items():
            for key, value in entries.items():
                tensors[f"{number}.{index}.{key}"] = whole(value).contiguous()
        scalars.append({"param_groups": state["param_groups"]})
    return tensors, scalars


def _join_state(
    optimizer: Optimizer, tensors: dict[str, Tensor], scalars: list[dict[str, Any]]
) -> None:
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizer.parts]
    for name, value in tensors.items():
        number, index, key = name.split(".", 2)
        states[int(number)].setdefault(int(index), {})[key] = value
    for part, state, rest in zip(optimizer.parts, states, scalars, strict=True):
        parameters = [p for group in part.param_groups for p in group["params"]]
        for place, moments in state.items():
            like = parameters[place]
            for key, value in moments.items():
                if value.shape == like.shape:  # a moment is cut as its parameter is, a count is not
                    moments[key] = as_sharded(value, like)
        part.load_state_dict({"state": state, **rest})
