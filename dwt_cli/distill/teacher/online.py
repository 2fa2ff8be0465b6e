"""A frozen teacher with modules that learn beside the student, after OKD (arXiv 2409.12512).

Its formulas were not checked against the paper's text: the losses are those of its predecessor
(PESF-KD, arXiv 2205.15308) with eq. 3's divergence.

Legend: B blocks, L positions, N target rows, D width.
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dwt_cli.base.randomness import seed_for
from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.divergences import ReverseKL
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.teacher.options import ModelTeacher, Online
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, ModelSignal, Request
from dwt_cli.distill.teacher.targets import HeadStates, SoftTargets
from dwt_cli.models.anatomy import anatomy_of, layers_of
from dwt_cli.models.wrapper import LanguageModel, OutputLayer
from dwt_cli.tasks.task import Batch
from dwt_cli.training.protocols import Moment

HEAD = "teacher_online"


class OnlineSignal(ModelSignal):
    """A frozen model whose answer its parts change; they begin as no change at all.

    They minimise the cross-entropy of its answer t with the label, plus agreement times
    KL(t || student) at temperature 1, in which the student is given: eq. 3 with the roles
    exchanged. ``Online.head``: h + B relu(A h) in place of the states h that enter the head's
    matrix. ``Online.lora``: B A x is added to the queries and values of every layer.
    """

    def __init__(self, model: LanguageModel, options: ModelTeacher) -> None:
        super().__init__(model, options.temperature)
        self.options, self._trains = options, False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("teacher", "online"))
            self.parts = parts_of(model, options)
        device = next(model.parameters()).device
        for part in self.parts.values():
            setattr(part, "lr_scale", options.lr_scale)  # noqa: B010 - no tensor, no module
            if device.type != "cpu":
                part.to(device)

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        self._trains = torch.is_grad_enabled()
        if self.options.online is Online.head:
            return super().__call__(batch, request)
        with self.changed():
            answer = self._ask(
                batch, request._replace(features=request.features | self.options.shown)
            )
        return answer._replace(features=answer.features and answer.features.detached())

    def _targets(self, states_ND: Tensor, head: OutputLayer | None) -> SoftTargets:
        if self.options.online is not Online.head:
            return super()._targets(states_ND, head)
        part = self.parts[HEAD]
        exact = next(part.parameters()).dtype
        with torch.set_grad_enabled(self._trains):  # and what is rounded for the head
            added_ND = part(states_ND.to(exact)).to(states_ND.dtype)
            return super()._targets(states_ND + added_ND, head)

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """Let the model's layers see their parts' changes."""
        assert self.model is not None, "a released teacher is not asked again"
        hooks = [
            linear.register_forward_hook(partial(_changed, parts))
            for linear, parts in _by_linear(self.model, self.parts)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def own_loss(
        self, teacher: SoftTargets, student: SoftTargets, batch: Batch, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(teacher, HeadStates), "a family whose head is known"
        weights = Weights(1.0, self.options.agreement)
        compared = Comparison({"agreement": ReverseKL()} if self.options.agreement else {})
        targets = student if self.options.agreement else None
        sums = DistillationSums(targets, batch.labels_N, weights, compared)
        tau, bias_V, cap = teacher.temperature, teacher.bias_V, teacher.cap
        bias_V = None if bias_V is None else bias_V / tau
        head = OutputLayer(teacher.weight_VD, bias_V, cap and cap / tau)
        return sums(teacher.states_ND / tau, head).total, {}


def parts_of(model: LanguageModel, options: ModelTeacher) -> dict[str, nn.Module]:
    """Return the trained modules by the names that checkpoints know, each with one forward."""
    width, rank = model.model.config.hidden_size, options.rank
    if options.online is Online.head:
        return {HEAD: _bottleneck(width, rank, width, nn.ReLU())}
    found: dict[str, nn.Module] = {}
    for number, maps in enumerate(_maps(model)):
        for place, (linear, share) in maps.items():
            num_outputs = linear.nf if isinstance(linear, Conv1D) else linear.out_features
            name = f"{HEAD}_{number}_{place}"
            found[name] = _bottleneck(width, rank, num_outputs // share, nn.Identity())
    return found


def _bottleneck(width: int, rank: int, num_outputs: int, between: nn.Module) -> nn.Module:
    """Return a map by way of so few numbers, which is zero at first."""
    last = nn.Linear(rank, num_outputs, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Linear(width, rank, bias=False), between, last)


def _maps(model: LanguageModel) -> Iterator[dict[str, tuple[Any, int]]]:
    """Yield each layer's maps to queries and values, and the number of maps in that matrix."""
    # where a norm comes after a projection, the anatomy names the norm
    names = [name.replace("_norm", "_proj") for name in anatomy_of(model.model).projections]
    for layer in layers_of(model.model):
        linears = [layer.get_submodule(name) for name in names]
        yield {"q": (linears[0], 4 - len(names)), "v": (linears[-1], 4 - len(names))}


def _by_linear(
    model: LanguageModel, parts: Mapping[str, nn.Module]
) -> Iterator[tuple[nn.Module, dict[int, nn.Module]]]:
    """Yield each linear map with what changes it, by the place in its output."""
    for number, maps in enumerate(_maps(model)):
        (asking, share), (telling, _) = maps["q"], maps["v"]
        queries, values = (parts[f"{HEAD}_{number}_{place}"] for place in "qv")
        if share > 1:
            yield asking, {0: queries, share - 1: values}
        else:
            yield asking, {0: queries}
            yield telling, {0: values}


def _changed(
    parts: Mapping[int, nn.Module], linear: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    pieces = list(output.chunk(max(parts) + 1, -1))
    for place, part in parts.items():
        pieces[place] = pieces[place] + part(inputs[0])
    return torch.cat(pieces, -1)
