"""AdamW, and Muon with AdamW beside it, under one learning-rate schedule."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dwt_cli.models.anatomy import anatomy_of
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
        trained = nn.ModuleDict({"model": model, "aux": aux or nn.ModuleDict()})
        self._names: dict[Tensor, str] = {p: name for name, p in trained.named_parameters()}
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

    def state(self) -> dict[str, Tensor]:
        """Return the state that there is, by ``parameter.entry``; sharded as its parameter."""
        return {
            f"{self._names[parameter]}.{entry}": value
            for part in self.parts
            for parameter, entries in part.state.items()
            for entry, value in entries.items()
        }

    def begin(self, stored: Iterable[str]) -> dict[str, str]:
        """Make zeros of the state that is stored under these names; return their names here."""
        order = [[p for group in part.param_groups for p in group["params"]] for part in self.parts]
        owners = {
            self._names[parameter]: (part, parameter)
            for part, parameters in zip(self.parts, order, strict=True)
            for parameter in parameters
        }
        found = {}
        for key in stored:
            name, _, entry = key.rpartition(".")
            if name[0].isdigit():  # older checkpoints have ``part.position.entry``
                number, position = map(int, name.split("."))
                name = self._names[order[number][position]]
            part, parameter = owners[name]
            is_count = entry == "step"
            like = torch.zeros((), device=parameter.device) if is_count else parameter
            part.state[parameter][entry] = torch.zeros_like(like)
            found[f"{name}.{entry}"] = key
        return found


def _decayed_and_not(parameters: list[nn.Parameter], decay: float) -> Iterator[dict[str, Any]]:
    """Yield a group of the matrices, which decay, and one of all others."""
    for is_matrix, rate in ((True, decay), (False, 0.0)):
        if chosen := [p for p in parameters if (p.ndim >= 2) == is_matrix]:
            yield {"params": chosen, "weight_decay": rate}


def _hidden_matrices(model: Wrapper) -> Iterator[str]:
    """Yield the names of the linear layers' weights, but for the output matrix."""
    output = f"model.{anatomy_of(model.model).output}"
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != output:
            yield f"{name}.weight"
