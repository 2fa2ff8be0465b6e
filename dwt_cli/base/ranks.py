"""The processes of one run: the rank of this one, and how all of them agree.

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

SECONDARY_FAILURE = 3
"""Exit code of a rank that ends because another one has failed, which reports it."""

_POLL_S = 0.05
_PEER_LOST = r"Connection (closed|reset) by peer|Broken pipe|NCCL.*remote|gloo.*(closed|reset)"


class Ranks:
    """A process that works alone: rank 0 of 1. All ranks call all methods in the same order.

    rank, size: this process and how many there are. local_rank, local_size: on this machine.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks; ``tensor`` is overwritten with it."""
        return tensor

    def largest(self, number: float) -> float:
        """Return the largest of all ranks' numbers."""
        return number

    def from_first(self, what: str, make: Callable[[], Any]) -> Any:
        """Return what rank 0 makes, a JSON value, on all ranks; they wait for it.

        what: its name, for the message of a rank that has waited too long.
        """
        return make()

    def once_per_machine(self, what: str, make: Callable[[], Any]) -> Any:
        """Return what the first rank of each machine makes; the others there wait for it."""
        return make()

    def agree(self, facts: dict[str, Any]) -> None:
        """Raise `UserError` on a rank where a fact differs from rank 0's."""
        theirs = self.from_first("the facts of rank 0", lambda: facts)
        for what, ours in facts.items():
            if ours != theirs[what]:
                raise UserError(
                    f"rank {self.rank} on {socket.gethostname()} has {what} {ours}, and rank 0 "
                    f"{theirs[what]}; make all nodes alike"
                )


ALONE = Ranks()


class Together(Ranks):
    """One of several processes, described by torchrun's environment variables.

    max_wait: how long a rank waits for another; `UserError` after that.
    """

    def __init__(self, device: Device, max_wait: timedelta) -> None:
        self.rank, self.size = (int(os.environ[key]) for key in ("RANK", "WORLD_SIZE"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._max_wait, self._num_values = max_wait, 0
        store, _, _ = next(iter(rendezvous("env://", timeout=max_wait)))
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
            timeout=max_wait,
        )

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def largest(self, number: float) -> float:
        value = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def from_first(self, what: str, make: Callable[[], Any]) -> Any:
        return self._from(self.is_first, "all", what, make)

    def once_per_machine(self, what: str, make: Callable[[], Any]) -> Any:
        return self._from(self.local_rank == 0, f"{self.rank // self.local_size}", what, make)

    def is_first_to_fail(self) -> bool:
        """Return whether no other rank has failed before; called once, by a rank that fails."""
        with contextlib.suppress(RuntimeError):  # the store has ended with rank 0
            return self._store.add("failures", 1) == 1
        return False

    def _from(self, ours: bool, whose: str, what: str, make: Callable[[], Any]) -> Any:
        self._num_values += 1
        key = f"{self._num_values}-{whose}"
        if ours:
            made = make()
            self._store.set(key, json.dumps(made))
            return made
        wait_s = self._max_wait.total_seconds()
        deadline = time.monotonic() + wait_s
        while not self._store.check([key]):  # polled, so that signals are handled in between
            if time.monotonic() > deadline:
                raise UserError(
                    f"launch.max_wait_minutes={wait_s / 60:g}: rank {self.rank} has waited so "
                    f"long for {what}; raise it if this takes longer"
                )
            time.sleep(_POLL_S)
        return json.loads(self._store.get(key))


@contextlib.contextmanager
def joined(device: Device, max_wait: timedelta) -> Iterator[Ranks]:
    """Join the process group for as long as the context is open; yield this process's `Ranks`.

    An error is raised on the rank where it occurred first; the others exit without a message,
    with `SECONDARY_FAILURE`. max_wait: how long a rank waits for another.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():  # of torchrun, ours or the user's own
        yield ALONE
        return
    ranks = Together(device, max_wait)
    try:
        yield ranks
    except BaseException as error:
        causes = (error, error.__cause__)
        lost = any(isinstance(e, RuntimeError) and re.search(_PEER_LOST, str(e)) for e in causes)
        if not lost and ranks.is_first_to_fail():
            raise
        raise SystemExit(SECONDARY_FAILURE) from error
    dist.barrier()  # no rank ends while another still communicates
    dist.destroy_process_group()
