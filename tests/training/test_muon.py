"""Muon on shares takes the steps of torch's Muon on whole matrices."""

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from dwt_cli.base.ranks import Ranks
from dwt_cli.training.optim import Muon
from dwt_cli.training.parallel import whole
from tests.processes import together

SHAPES = [(5, 3), (3, 8), (4, 4), (1, 6), (5, 3), (3, 8)]  # over two ranks: uneven, and none
OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}


def _matrices(of: str) -> list[Tensor]:
    draw = torch.Generator().manual_seed(len(of))
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


def _three_steps(ranks: Ranks) -> tuple[list[list[list[float]]], int]:
    """The matrices after three steps, and how many messages one step takes."""
    mesh = init_device_mesh("cpu", (ranks.size,))
    shares = [
        torch.nn.Parameter(distribute_tensor(matrix, mesh, [Shard(0)]))
        for matrix in _matrices("start")
    ]
    optimizer = Muon(shares, **OPTIONS)
    for step in range(3):
        for share, gradient in zip(shares, _matrices("step" * step), strict=True):
            share.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        with CommDebugMode() as messages:
            optimizer.step()
    return [whole(share.detach()).tolist() for share in shares], messages.get_total_counts()


def _three_whole_steps(kind: type[torch.optim.Muon]) -> list[torch.nn.Parameter]:
    matrices = [torch.nn.Parameter(matrix) for matrix in _matrices("start")]
    optimizer = kind(matrices, **OPTIONS)
    for step in range(3):
        for matrix, gradient in zip(matrices, _matrices("step" * step), strict=True):
            matrix.grad = gradient
        optimizer.step()
    return matrices


def test_matrices_of_one_shape_take_torchs_steps_together() -> None:
    for ours, theirs in zip(
        _three_whole_steps(Muon), _three_whole_steps(torch.optim.Muon), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)  # they round in bf16


def test_shares_take_the_steps_of_whole_matrices(tmp_path: Path) -> None:
    expected = _three_whole_steps(torch.optim.Muon)
    for found, num_messages in together(2, _three_steps):
        assert num_messages == len(SHAPES)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(ours), theirs.detach(), rtol=1e-6, atol=1e-7)
