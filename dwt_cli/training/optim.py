"""AdamW, and Muon with AdamW beside it, under one learning-rate schedule."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dwt_cli.models.anatomy import anatomy_of, is_linear
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.options import Optim
from dwt_cli.training.parallel import whole


class Optimizer:
    """One or two torch optimisers that step together, each group at its own peak rate.

    aux: modules that are trained beside the model, always by AdamW. A module with an attribute
    ``lr_scale`` has that many times the peak rate ``options.lr``.
    """

    def __init__(self, model: Wrapper, options: Optim, aux: nn.ModuleDict | None = None) -> None:
        self._options = options
        hidden = set(_hidden_matrices(model)) if options.muon else set()
        named = dict(model.named_parameters())
        by_scale = {1.0: [named[name] for name in named if name not in hidden]}
        for module in () if aux is None else aux.values():
            by_scale.setdefault(getattr(module, "lr_scale", 1.0), []).extend(module.parameters())
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    group | {"lr": options.lr * scale}
                    for scale, parameters in by_scale.items()
                    for group in _decayed_and_not(parameters, options.weight_decay)
                ],
                betas=(options.betas[0], options.betas[1]),
                eps=options.eps,
                fused=True,
            )
        ]
        if own := options.muon:
            self.parts.append(
                Muon(
                    [named[name] for name in named if name in hidden],
                    lr=own.hidden_lr,
                    momentum=own.momentum,
                    weight_decay=own.hidden_weight_decay,
                )
            )
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_lr(self, progress: float) -> float:
        """Set every group's rate for a share of the run; return its factor on the peaks."""
        factor = self._options.lr_factor(progress)
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return factor

    def step(self) -> None:
        """Take one step with the gradients as they are."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Free all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def _decayed_and_not(parameters: list[nn.Parameter], decay: float) -> Iterator[dict[str, Any]]:
    """Yield a group of the matrices, which decay, and one of all others."""
    for is_matrix, rate in ((True, decay), (False, 0.0)):
        if chosen := [p for p in parameters if (p.ndim >= 2) == is_matrix]:
            yield {"params": chosen, "weight_decay": rate}


def _hidden_matrices(model: Wrapper) -> Iterator[str]:
    """Yield the names of the linear layers' weights, but for the output matrix."""
    output = f"model.{anatomy_of(model.model).output}"
    for name, module in model.named_modules():
        if is_linear(module) and name != output:
            yield f"{name}.weight"


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov momentum that is sharded as its matrix is.

    torch's takes shards too, but each product of its Newton-Schulz iteration is then a round of
    messages: 11 to 16 for one matrix. Here the update is gathered first, once for each matrix and
    step, and every rank orthogonalises it, as every rank does where the model is replicated.
    """

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
