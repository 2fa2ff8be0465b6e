"""Muon on a sharded model: one all-gather for each hidden matrix and step.

torch's Muon takes shards too, but each product of its Newton-Schulz iteration is then a round of
messages: 11 to 16 for one matrix. Here the update is gathered first, and every rank
orthogonalises it, as every rank does where the model is replicated.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dwt_cli.training.parallel import whole


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov momentum that is sharded as its matrix is."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step; all of the matrices are sharded, or none is."""
        if not any(isinstance(p, DTensor) for group in self.param_groups for p in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]
        assert closure is None, "nobody here asks for one"
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    assert isinstance(matrix, DTensor)
                    self._step(matrix, matrix.grad, group)

    def _step(self, matrix: DTensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        momentum = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"])
        change = _orthogonal_change(whole(update), group)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        # every rank has the change and takes its share: nothing is sent
        mesh, placements = matrix.device_mesh, matrix.placements
        share = distribute_tensor(change, mesh, placements, src_data_rank=None)
        matrix.add_(share.to(matrix.device))  # which is not the mesh's where shares are offloaded


def _orthogonal_change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the change by torch's own step with a whole update, without momentum and decay."""
    change = nn.Parameter(torch.zeros_like(update))
    change.grad = update
    alone = {"params": [change], "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    torch.optim.Muon([group | alone]).step()
    return change.detach()
