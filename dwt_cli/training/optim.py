"""AdamW, and Muon with AdamW beside it, under one learning-rate schedule."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dwt_cli.models.anatomy import anatomy_of, is_linear
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training import muon
from dwt_cli.training.options import Optim


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
                muon.Muon(
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
