"""Checkpoints of a training: what they hold, which are kept, and which one is opened.

A checkpoint is a sealed folder ``step-00000400`` with model.safetensors, optimizer.safetensors
and state.json, and aux.safetensors if the loss has trainable parts. It is never a pickle. Its
tensors are whole and named after their parameters, so that any number of ranks, sharded or not,
goes on from it. They are put together on rank 0, in CPU memory, and nowhere else.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.parallel import spread, tensors_of, whole

_MODEL, _AUX, _OPTIMIZER = (f"{name}.safetensors" for name in ("model", "aux", "optimizer"))


@dataclass
class Counters:
    """The progress of a training.

    step: optimizer steps done. elapsed_s: seconds spent in the loop, earlier starts included.
    num_skipped: steps without an update because a loss or gradient was not finite.
    best_loss, best_step: the lowest held-out loss so far, in nats, and its step.
    memory: the state that the loss keeps from step to step (`Loss.remember`).
    """

    step: int = 0
    elapsed_s: float = 0.0
    num_skipped: int = 0
    best_loss: float | None = None
    best_step: int = 0
    memory: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training: the last few and the best.

    identity: fingerprint of the training; a checkpoint of another one is refused. formerly: its
    older fingerprint, which is accepted too. All ranks call `save` and `restore`; rank 0 alone
    writes and reads. say: prints a line.
    """

    folder: Path
    identity: str
    keep: int
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    formerly: str | None = None

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
            # one file after the other, so that rank 0 never holds all of them at once
            self._write(aside / _MODEL, tensors_of(model))
            self._write(aside / _AUX, tensors_of(aux))
            self._write(aside / _OPTIMIZER, optimizer.state())
            if self.ranks.is_first:
                state = {"identity": self.identity, "counters": dataclasses.asdict(counters)}
                atomic.write_json(aside / "state.json", state)
                atomic.publish(aside, self._place(counters.step))
        if self.ranks.is_first:
            for step in self.steps()[: -self.keep]:
                if step != counters.best_step:
                    shutil.rmtree(self._place(step))

    def restore(self, model: nn.Module, aux: nn.ModuleDict, optimizer: Optimizer) -> Counters:
        """Load the newest whole checkpoint; return its counters, fresh ones when there is none.

        A damaged one is named and set aside, and the one before it is taken.
        """
        name = self.ranks.from_first("the newest checkpoint", self._newest_whole)
        if name is None:
            return Counters()
        place = self.folder / name
        state = self.ranks.from_first("the checkpoint's state", lambda: self._state(place))
        self._load(place / _MODEL, tensors_of(model))
        self._load(place / _AUX, tensors_of(aux))
        moments = place / _OPTIMIZER
        stored = self.ranks.from_first("the optimizer's state", lambda: _names(moments))
        names = optimizer.begin(stored)
        self._load(moments, optimizer.state(), names)
        return Counters(**state["counters"])

    def restore_model(self, model: nn.Module) -> Counters | None:
        """Load the model of the newest whole checkpoint alone; None when there is none."""
        if (name := self._newest_whole()) is None:
            return None
        counters = Counters(**self._state(self.folder / name)["counters"])
        self._load(self.folder / name / _MODEL, tensors_of(model))
        return counters

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

    def _write(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Put whole tensors together on rank 0, one by one, in CPU memory, and write them."""
        found = {}
        for name, tensor in tensors.items():
            gathered = whole(tensor)  # by all ranks
            if self.ranks.is_first:
                found[name] = gathered.cpu().contiguous()
            del gathered  # before the next one is there
        if found:
            save_file(found, file)

    def _load(
        self, file: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str] | None = None
    ) -> None:
        """Load a file that rank 0 reads into tensors of all ranks, one by one.

        names: those in the file, where they are others.
        """
        if not tensors:
            return
        names = names or {name: name for name in tensors}
        content: Any
        with safe_open(file, "pt") if self.ranks.is_first else nullcontext() as content:
            assert content is None or set(content.keys()) == set(names.values()), "of another model"
            for name, tensor in tensors.items():
                value = None if content is None else content.get_tensor(names[name])
                spread(value, tensor, self.ranks)

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


def _names(file: Path) -> list[str]:
    """Return the names of a file's tensors; none if there is no such file."""
    if not file.exists():
        return []
    with safe_open(file, "pt") as content:
        return list(content.keys())
