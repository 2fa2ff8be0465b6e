"""What the ranks of a run send one another in an optimizer step.

Counted are weights and gradients; the sums of a step's metrics and of its gradient norm are a few
hundred bytes beside them.
"""

from dataclasses import dataclass

import torch

from dwt_cli.training.options import Fsdp, Parallel


@dataclass(frozen=True)
class Traffic:
    """Bytes of the tensors that a step's collectives put together, the same on every rank.

    all_reduce: gradients, summed for everybody. all_gather: shards of weights, put together.
    reduce_scatter: gradients, summed and shared out.
    """

    all_reduce: int = 0
    all_gather: int = 0
    reduce_scatter: int = 0

    def sent(self, num_ranks: int) -> float:
        """What each rank sends, and receives, when the ranks form a ring.

        A ring passes a tensor around in ``num_ranks`` pieces, each to ``num_ranks - 1`` others:
        once to gather or to scatter, twice to reduce for everybody (arXiv 1802.05799).
        """
        around = 2 * self.all_reduce + self.all_gather + self.reduce_scatter
        return around * (num_ranks - 1) / num_ranks


def traffic(
    parallel: Parallel,
    num_parameters: int,
    dtype: torch.dtype,
    num_parts: int,
    num_teacher_parameters: int = 0,
) -> Traffic:
    """Of one step of ``num_parts`` micro-batches on each rank.

    DDP sums gradients once, in fp32. FSDP gathers the weights in ``dtype`` for every forward pass,
    and again for the backward pass, and sums gradients once, in fp32. A sharded teacher is
    gathered for every forward pass too.
    """
    gradients = num_parameters * torch.float32.itemsize
    if not isinstance(parallel, Fsdp):
        return Traffic(all_reduce=gradients)
    gathered = 2 * num_parameters
    if parallel.shard_teacher:
        gathered += num_teacher_parameters
    return Traffic(all_gather=num_parts * gathered * dtype.itemsize, reduce_scatter=gradients)
