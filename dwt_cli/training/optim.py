"""AdamW, and Muon with AdamW beside it, under one learning-rate schedule."""

from collections.abc import Iterator

import torch
from torch import nn

from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training import muon
from dwt_cli.training.options import Optim


class Optimizer:
    """One or two torch optimisers that move together, each group at its own peak rate.

    aux: what is trained beside the model, always by AdamW.
    """

    def __init__(self, model: Wrapper, options: Optim, aux: nn.Module | None = None) -> None:
        self._options = options
        hidden = set(_hidden_matrices(model)) if options.muon else set()
        named = dict(model.named_parameters())
        rest = [parameter for name, parameter in named.items() if name not in hidden]
        rest += [] if aux is None else aux.parameters()
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {
                        "params": [p for p in rest if p.ndim >= 2],
                        "weight_decay": options.weight_decay,
                    },
                    {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=options.lr,
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
        """Set every group's rate for a share of the run; returns the factor on the peaks."""
        factor = self._options.lr_factor(progress)
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return factor

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def _hidden_matrices(model: Wrapper) -> Iterator[str]:
    """Names of the linear layers' weights, without the one that leads to the vocabulary."""
    output = f"model.{anatomy_of(model.model).output}"
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != output:
            yield f"{name}.weight"
