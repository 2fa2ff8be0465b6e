import math

import pytest
import torch

from dwt_cli.tasks.classification import classification_sum


def test_cross_entropy_and_its_gradient_against_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    outputs_BC = torch.randn(4, 3, generator=draw, dtype=torch.float32, requires_grad=True)
    labels = [2, 0, 1, 1]
    total = classification_sum(outputs_BC, torch.tensor(labels))
    total.backward()
    wanted, gradient = 0.0, []
    for row, label in zip(outputs_BC.tolist(), labels, strict=True):
        weights = [math.exp(value) for value in row]
        wanted -= math.log(weights[label] / sum(weights))
        gradient.append([w / sum(weights) - (c == label) for c, w in enumerate(weights)])
    assert total.item() == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(outputs_BC.grad, torch.tensor(gradient), rtol=1e-5, atol=1e-6)


def test_one_output_is_a_regression() -> None:
    outputs_BC = torch.tensor([[1.0], [4.0]], requires_grad=True)
    total = classification_sum(outputs_BC, torch.tensor([2.5, 4.5]))
    total.backward()
    assert total.item() == pytest.approx(1.5**2 + 0.5**2)
    assert outputs_BC.grad is not None
    assert outputs_BC.grad.tolist() == [[-3.0], [-1.0]]
