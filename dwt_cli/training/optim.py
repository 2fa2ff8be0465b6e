"""AdamW, and Muon with AdamW beside it, under one learning-rate schedule."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dwt_cli.models.anatomy import anatomy_of, is_linear
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.options import Optim
from dwt_cli.training.parallel import whole

_TOGETHER = 1 << 21
"""The most numbers in matrices that are orthogonalised at once: larger ones gain nothing by it."""


class Optimizer:
    """One or two torch optimisers that step together, each group at its own peak rate.

    aux: modules that are trained beside the model, always by AdamW. A module with an attribute
    ``lr_scale`` has that many times the peak rate ``options.lr``.
    """

    def __init__(self, model: Wrapper, options: Optim, aux: nn.ModuleDict | None = None) -> None:
        self._options = options
        named = {name: each for name, each in model.named_parameters() if each.requires_grad}
        hidden = _hidden_matrices(model) & named.keys() if options.muon else set()
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
        if (own := options.muon) and hidden:
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


def _hidden_matrices(model: Wrapper) -> set[str]:
    """Return the names of the linear layers' weights, but for the output matrix.

    Of a classifier that is its last one, which it has in place of the output over the vocabulary.
    """
    linears = [name for name, module in model.named_modules() if is_linear(module)]
    over_tokens = f"model.{anatomy_of(model.model).output}"
    output = over_tokens if over_tokens in linears else linears[-1]
    return {f"{name}.weight" for name in linears if name != output}


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, several matrices of one shape at once; their momentum is sharded as they.

    As small as a nano model's are, products take less time than their calls. Of shares torch makes
    each product of its Newton-Schulz iteration a round of messages: 11 to 16 for one matrix. Here
    an update is gathered first, and every rank orthogonalises it, as where models are replicated.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        assert closure is None, "nobody here asks for one"
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                is_sharded = isinstance(matrices[0], DTensor)
                size = 1 if is_sharded else max(1, _TOGETHER // shape.numel())
                for start in range(0, len(matrices), size):
                    self._step(matrices[start : start + size], group)

    def _step(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        updates = [whole(self._update(matrix, group)).bfloat16() for matrix in matrices]
        num_rows, num_columns = matrices[0].shape
        rate = group["lr"] * math.sqrt(max(1, num_rows / num_columns))
        for matrix, change in zip(matrices, _orthogonal(torch.stack(updates), group), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            if isinstance(matrix, DTensor):
                # every rank has the change and takes its share: nothing is sent
                mesh, placements = matrix.device_mesh, matrix.placements
                change = distribute_tensor(change, mesh, placements, src_data_rank=None)
            # where shares are offloaded, their device is not the mesh's
            matrix.add_(change.to(matrix.device), alpha=-rate)

    def _update(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the gradient with Nesterov momentum, which it is added to."""
        gradient = matrix.grad
        assert gradient is not None
        momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"])


def _orthogonal(updates_KMN: Tensor, group: dict[str, Any]) -> Tensor:
    """Return K matrices made nearly orthogonal by torch's Newton-Schulz iteration, bfloat16."""
    a, b, c = group["ns_coefficients"]
    is_tall = updates_KMN.shape[1] > updates_KMN.shape[2]
    states = updates_KMN.mT if is_tall else updates_KMN
    states = states / states.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = states @ states.mT
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        states = torch.baddbmm(states, change, states, beta=a)
    return states.mT if is_tall else states
