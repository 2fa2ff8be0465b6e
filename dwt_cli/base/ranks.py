"""This process among the others of one run: its number, and how all come to know the same.

Tensors travel through torch's process group, everything else as JSON through its store.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Device

SILENT = 3
"""The exit code of a rank that leaves because another one has failed, or has told of it."""

_GLANCE_S = 0.05
_GONE = r"Connection (closed|reset) by peer|Broken pipe|NCCL.*remote|gloo.*(closed|reset)"


class Ranks:
    """A process that works alone: rank 0 of 1. Everybody calls every method in the same order.

    rank, size: this process and how many there are. local_rank, local_size: on this machine.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on each of them."""
        return tensor

    def largest(self, number: float) -> float:
        """The largest of all ranks' numbers."""
        return number

    def from_first(self, what: str, make: Callable[[], Any]) -> Any:
        """What rank 0 makes (a JSON value); the others wait for ``what`` and get it too."""
        return make()

    def once_per_machine(self, what: str, make: Callable[[], Any]) -> Any:
        """What the first rank of each machine makes; the others there wait for it."""
        return make()

    def agree(self, facts: dict[str, Any]) -> None:
        """Raise `UserError` on a rank where a fact is another than on rank 0."""


ALONE = Ranks()


class Together(Ranks):
    """One of several processes, as torchrun's environment says."""

    def __init__(self, device: Device, max_wait: timedelta) -> None:
        self.rank, self.size = (int(os.environ[key]) for key in ("RANK", "WORLD_SIZE"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._max_wait = max_wait
        self._asked = 0
        store, _, _ = next(iter(rendezvous("env://", timeout=self._max_wait)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"dwt-{attempt}", store)
        on_cuda = device is not Device.cpu and torch.cuda.is_available()
        if on_cuda:
            torch.cuda.set_device(self.local_rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
            store=PrefixStore("torch", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=self._max_wait,
        )

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def largest(self, number: float) -> float:
        value = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def from_first(self, what: str, make: Callable[[], Any]) -> Any:
        return self._from(self.is_first, self._key("all"), what, make)

    def once_per_machine(self, what: str, make: Callable[[], Any]) -> Any:
        machine = self._key(str(self.rank // self.local_size))
        return self._from(self.local_rank == 0, machine, what, make)

    def agree(self, facts: dict[str, Any]) -> None:
        theirs = self.from_first("the facts of rank 0", lambda: facts)
        for what, ours in facts.items():
            if ours != theirs[what]:
                raise UserError(
                    f"rank {self.rank} on {socket.gethostname()} has {what} {ours}, and rank 0 "
                    f"{theirs[what]}; make all nodes alike"
                )

    def is_first_to_fail(self) -> bool:
        """Whether no other rank has failed before; asked once, by a rank that fails."""
        with contextlib.suppress(RuntimeError):  # the store has gone with its holder
            return self._store.add("failures", 1) == 1
        return False

    def _key(self, name: str) -> str:
        self._asked += 1
        return f"{self._asked}-{name}"

    def _from(self, ours: bool, key: str, what: str, make: Callable[[], Any]) -> Any:
        if ours:
            made = make()
            self._store.set(key, json.dumps(made))
            return made
        deadline = time.monotonic() + self._max_wait.total_seconds()
        while not self._store.check([key]):  # in short glances: a signal is heard in between
            if time.monotonic() > deadline:
                raise UserError(
                    f"launch.max_wait_minutes={self._max_wait.total_seconds() / 60:g}: rank "
                    f"{self.rank} has waited so long for {what}; raise it if this takes longer"
                )
            time.sleep(_GLANCE_S)
        return json.loads(self._store.get(key))


def are_several() -> bool:
    """Whether torchrun, ours or somebody's own, has started this process as one of its ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def joined(device: Device, max_wait: timedelta) -> Iterator[Ranks]:
    """This process among the others, for as long as the context is open.

    What goes wrong is raised on the rank where it went wrong first; the others leave silently.
    max_wait: how long a rank waits for another.
    """
    if not are_several():
        yield ALONE
        return
    ranks = Together(device, max_wait)
    try:
        yield ranks
    except BaseException as error:
        if not _is_echo(error) and ranks.is_first_to_fail():
            raise
        raise SystemExit(SILENT) from error
    dist.barrier()  # nobody leaves while another still listens
    dist.destroy_process_group()


def _is_echo(error: BaseException) -> bool:
    """Whether all that went wrong is that another rank has gone."""
    causes = (error, error.__cause__)
    return any(isinstance(e, RuntimeError) and re.search(_GONE, str(e)) for e in causes)
