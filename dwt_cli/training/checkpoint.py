"""Checkpoints of a training: what they hold, which are kept, and which one is opened.

A checkpoint is a sealed folder ``step-00000400`` with model.safetensors, optimizer.safetensors
and state.json, and aux.safetensors if the loss has trainable parts. It is never a pickle. Its
tensors are whole and named after their parameters, so that any number of ranks, sharded or not,
goes on from it. They are put together on rank 0, in CPU memory, and nowhere else.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.parallel import load_state, state_on_first


@dataclass
class Counters:
    """The progress of a training.

    step: optimizer steps done. elapsed_s: seconds spent in the loop, earlier starts included.
    num_skipped: steps without an update because a loss or gradient was not finite.
    best_loss, best_step: the lowest held-out loss so far, in nats, and its step.
    recent_loss: running mean of the steps' hard losses, over some ten of them; None at first.
    memory: the state that the loss keeps from step to step (`Loss.remember`).
    compiled: whether the layers are (`dwt_cli.training.compiling`).
    """

    step: int = 0
    elapsed_s: float = 0.0
    num_skipped: int = 0
    best_loss: float | None = None
    best_step: int = 0
    recent_loss: float | None = None
    memory: dict[str, float] = field(default_factory=dict)
    compiled: bool = False


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training: the last few and the best.

    identity: fingerprint of the training; a checkpoint of another one is refused. formerly: its
    older fingerprint, which is accepted too. All ranks call `save` and `restore`; rank 0 alone
    writes and reads. say: prints a line. behind: the newest that is so many steps old stays, too.
    """

    folder: Path
    identity: str
    keep: int
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    formerly: str | None = None
    behind: int = 0

    def steps(self) -> list[int]:
        """Return the steps with a sealed checkpoint, ascending."""
        found = self.folder.glob("step-*")
        return sorted(
            int(path.name.removeprefix("step-")) for path in found if atomic.is_sealed(path)
        )

    def save(
        self, model: nn.Module, aux: nn.ModuleDict, optimizer: Optimizer, counters: Counters
    ) -> None:
        """Write a checkpoint in one piece, then drop those that are no longer kept.

        Raises `UserError` when the disk is full; the checkpoints before it stay.
        """
        aside = self.folder / ".writing"
        with self._writing(aside) if self.ranks.is_first else nullcontext():
            # one after the other, so that rank 0 never holds all of them at once
            _write(state_on_first(model), aside / "model.safetensors")
            _write(state_on_first(aux), aside / "aux.safetensors")
            moments = _optimizer_state(_both(model, aux), optimizer)
            _write(moments, aside / "optimizer.safetensors")
            if self.ranks.is_first:
                state = {"identity": self.identity, "counters": dataclasses.asdict(counters)}
                atomic.write_json(aside / "state.json", state)
                atomic.publish(aside, self._place(counters.step))
        if self.ranks.is_first:
            steps = self.steps()
            behind = [step for step in steps if step <= counters.step - self.behind]
            for step in steps[: -self.keep]:
                if step not in (counters.best_step, *behind[-1:]):
                    shutil.rmtree(self._place(step))

    def drop_after(self, step: int) -> Counters:
        """Remove the checkpoints after a step; return the counters of the newest one left."""
        places = [self._place(each) for each in self.steps()]
        left = [place for place in places if place <= self._place(step)]

        def drop() -> Any:
            for place in places[len(left) :]:
                shutil.rmtree(place)
            return self._state(left[-1])["counters"] if left else {}

        return Counters(**self.ranks.from_first("the checkpoint's counters", drop))

    def restore(
        self, model: nn.Module, aux: nn.ModuleDict | None = None, optimizer: Optimizer | None = None
    ) -> Counters:
        """Load the newest whole checkpoint; return its counters, fresh ones when there is none.

        A damaged one is named and set aside, and the one before it is taken. Without ``aux`` and
        ``optimizer`` the model alone is loaded.
        """
        name = self.ranks.from_first("the newest checkpoint", self._newest_whole)
        if name is None:
            return Counters()
        place = self.folder / name
        state = self.ranks.from_first("the checkpoint's state", lambda: self._state(place))
        load_state(model, self._read(place / "model.safetensors"), self.ranks)
        if aux is not None and optimizer is not None:
            if aux.state_dict():
                load_state(aux, self._read(place / "aux.safetensors"), self.ranks)
            moments = self._read(place / "optimizer.safetensors")
            _load_optimizer(_both(model, aux), optimizer, moments, self.ranks)
        return Counters(**state["counters"])

    @contextmanager
    def _writing(self, aside: Path) -> Iterator[None]:
        """Make the folder to write to, and remove it when writing fails."""
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with atomic.needing_room(self.folder):
                aside.mkdir(parents=True)
                yield
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _read(self, file: Path) -> dict[str, Tensor]:
        """Return a file's tensors on rank 0; none on the others, or if there is no such file."""
        return load_file(file) if self.ranks.is_first and file.exists() else {}

    def _newest_whole(self) -> str | None:
        """Return the name of the newest whole checkpoint; damaged ones are set aside."""
        steps = self.steps()
        for step in reversed(steps):
            place = self._place(step)
            try:
                atomic.verify(place)
            except atomic.Damaged as damage:
                self.say(f"checkpoint set aside: {damage}")
                aside = self.folder / f"damaged-{place.name}"
                shutil.rmtree(aside, ignore_errors=True)
                place.rename(aside)
            else:
                return place.name
        if steps:
            self.say(f"no whole checkpoint is left in {self.folder}: it starts from step 0")
        return None

    def _state(self, place: Path) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if state["identity"] not in (self.identity, self.formerly):
            raise UserError(
                f"{place} is a checkpoint of another run: move it back, or set run.fresh=true or "
                "another run.root"
            )
        return state

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _write(tensors: dict[str, Tensor], file: Path) -> None:
    if tensors:
        save_file(tensors, file)


def _both(model: nn.Module, aux: nn.ModuleDict) -> nn.ModuleDict:
    """Return one module with all that an optimizer trains, which names each parameter."""
    return nn.ModuleDict({"model": model, "aux": aux})


def _optimizer_state(modules: nn.ModuleDict, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the moments by ``parameter.entry`` on rank 0; nothing on the others."""
    # torch's function would have an optimizer without state take a step with zero gradients
    moved = [part for part in optimizer.parts if part.state]
    if not moved:
        return {}
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = states.get_optimizer_state_dict(modules, moved, options=options)
    return {
        f"{name}.{entry}": value.contiguous()
        for name, entries in state.get("state", {}).items()
        for entry, value in entries.items()
    }


def _load_optimizer(
    modules: nn.ModuleDict, optimizer: Optimizer, tensors: dict[str, Tensor], ranks: Ranks
) -> None:
    """Load the result of `_optimizer_state` on rank 0 into the optimizers of all ranks."""
    names: dict[Tensor, str] = {p: name for name, p in modules.named_parameters()}
    order = [
        [names[p] for group in part.param_groups for p in group["params"]]
        for part in optimizer.parts
    ]
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition(".")
        if name[0].isdigit():  # older checkpoints have ``part.position.entry``
            part_number, position = map(int, name.split("."))
            name = order[part_number][position]
        state.setdefault(name, {})[entry] = value
    moved = set(ranks.from_first("the optimizer's state", lambda: list(state)))
    several = ranks.size > 1
    options = states.StateDictOptions(several, broadcast_from_rank0=several, strict=False)
    for part, ours in zip(optimizer.parts, order, strict=True):
        if moved.isdisjoint(ours):
            continue
        # rates and decays follow from the options: they stay as they are
        groups = [g | {"params": [names[p] for p in g["params"]]} for g in part.param_groups]
        given: Any = {"state": state, "param_groups": groups} if ranks.is_first else {}
        states.set_optimizer_state_dict(modules, part, given, options=options)
        # torch's function counts a step of zeros for parameters that had no gradient so far
        for parameter in [p for p in part.state if names[p] not in moved]:
            del part.state[parameter]
