"""A student whose deep layers teach its shallow ones, against loops and a linear program."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.features import parts_for
from dwt_cli.distill.objective.itself import OwnDistance, SelfFeatures, flow, transported
from dwt_cli.distill.teacher.signal import OwnSignal
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.training.protocols import Moment

PAIRS = [[0, -2], [1, 2]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(states: Tensor, others: Tensor) -> Tensor:
    mean = sum(others[1:], others[0]) / len(others)
    likeness = torch.stack([(s @ mean / (mean @ mean).sqrt()).clamp(min=0) + 1e-6 for s in states])
    return likeness / likeness.sum()


def cheapest(costs: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The optimal flow, by a linear program."""
    num_rows, num_columns = costs.shape
    sums = [np.kron(np.eye(num_rows), np.ones(num_columns))]
    sums.append(np.kron(np.ones(num_rows), np.eye(num_columns)))
    given = torch.cat([left, right]).double().numpy()
    found = linprog(costs.detach().double().flatten().numpy(), A_eq=np.vstack(sums), b_eq=given)
    assert found.success
    return torch.from_numpy(found.x).view(num_rows, num_columns)


def test_the_flow_between_positions() -> None:
    costs = 1 - drawn(4, 5).tanh()
    left, right = drawn(4, seed=1).softmax(0), drawn(5, seed=2).softmax(0)
    found = flow(costs[None], left[None], right[None])[0].double()
    torch.testing.assert_close(found.sum(0), right.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), left.double(), rtol=0.02, atol=0.002)
    least = (cheapest(costs, left, right) * costs).sum().item()
    assert least - 0.005 <= (found * costs).sum().item() < least + 0.02


def test_the_transport_has_the_gradient_of_its_costs_alone() -> None:
    ours, theirs = drawn(2, 4, 6).double().requires_grad_(), drawn(2, 4, 6, seed=1).double()
    found = transported(ours, theirs)
    losses = []
    for f, g in zip(ours, theirs, strict=True):
        rows = [torch.stack([1 - (x @ y) / (x @ x).sqrt() / (y @ y).sqrt() for y in g]) for x in f]
        costs = torch.stack(rows)
        with torch.no_grad():
            given = costs.clone(), weights(f, g), weights(g, f)
            x = flow(*(each[None] for each in given))[0]
        losses.append((x * costs).sum())
    expected = sum(losses[1:], losses[0]) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    ((one,), (other,)) = (torch.autograd.grad(each, [ours]) for each in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.fixture
def student(tiny: Callable[..., Architecture]) -> LanguageModel:
    return LanguageModel(make_model(tiny("modernbert", 4), 0, "student"), torch.float32)


@pytest.mark.parametrize("projection", [False, True])
def test_shallow_layers_learn_from_deep_ones_and_nothing_above(
    student: LanguageModel, corpus: Corpus, masking: Masking, projection: bool
) -> None:
    options = SelfFeatures(pairs=PAIRS, projection=projection)
    config = student.model.config
    parts = parts_for({"it": options}, config, config)
    assert bool(parts) == projection
    distillation = Distillation(OwnSignal(), Constant(hard=0, soft=0.7), {"it": options}, parts)
    loss = DistillationLoss(distillation)
    batches = TrainBatches(corpus.train, masking, 4, 0, "student")
    batch = batches.batch(0)
    found = loss(student, batch, Moment(0.0))
    states = student.model(batch.ids_BL, output_hidden_states=True).hidden_states[1:]
    squares = [
        (shallow - deep.detach()).square().sum() / shallow.numel()
        for shallow, deep in ((states[0], states[-2]), (states[1], states[2]))
    ]
    expected = 0.7 * len(batch.labels_N) * (squares[0] + squares[1]) / 2
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-4)
    assert "teacher_loss" not in found.sums
    assert loss.remember({}, found.sums)["num_taught"] == 1
    found.total.backward()
    ours = {name: p.grad for name, p in student.named_parameters()}
    slow = torch.autograd.grad(expected, list(student.parameters()), allow_unused=True)
    for (name, gradient), theirs in zip(ours.items(), slow, strict=True):
        assert gradient is not None, name
        below = ("embeddings", ".layers.0.", ".layers.1.", "projections")
        assert (theirs is not None) == any(place in name for place in below), name
        torch.testing.assert_close(gradient, theirs if theirs is not None else 0 * gradient)
    halves = [loss(student, batches.batch(0, part, 2), Moment(0.0)).total for part in range(2)]
    torch.testing.assert_close(halves[0] + halves[1], found.total)


@pytest.mark.parametrize(
    ("pairs", "depth", "said"),
    [
        ([[2, 1]], 4, "no \\[shallow"),
        ([[0, -2]], 2, "a deeper student"),
        ([[0, -2]], 1, "layer -2"),
    ],
)
def test_what_is_not_shallow_is_refused(pairs: Any, depth: int, said: str) -> None:
    sizes: Any = SimpleNamespace(model_type="bert", num_hidden_layers=depth, hidden_size=8)
    for distance in OwnDistance:
        with pytest.raises(UserError, match=said):
            parts_for({"it": SelfFeatures(pairs=pairs, distance=distance)}, sizes, sizes)
