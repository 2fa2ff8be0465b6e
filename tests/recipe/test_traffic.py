"""What is said to be sent against what torch's collectives are given, on two ranks over gloo."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dwt_cli.base.ranks import Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.flops import num_parameters
from dwt_cli.recipe.memory import sent, traffic
from dwt_cli.training.checkpoint import Counters
from dwt_cli.training.options import AdamW, Fsdp
from tests.conftest import masking_of, outlined, tiny_architecture
from tests.processes import together
from tests.training.conftest import make_training
from tests.training.parity import PARALLEL

KINDS = {"allreduce_": "all_reduce", "_allgather_base_": "all_gather",
         "_reduce_scatter_base_": "reduce_scatter"}  # fmt: skip


class Weighing(TorchDispatchMode):
    """Bytes of the whole tensor that each collective puts together, scalars left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().removeprefix("c10d::")
        if name in KINDS and func.name().startswith("c10d::"):
            sizes = [leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            if max(sizes) > 256:  # the sums of a step's metrics, and of the gradient norm
                self.bytes[KINDS[name]] += max(sizes)
        return func(*args, **(kwargs or {}))


def weigh(
    ranks: Ranks, parallel: str, num_parts: int, corpus: Path, folder: Path
) -> dict[str, int]:
    torch.set_num_threads(1)
    opened = Corpus.open(corpus)
    training = make_training(
        folder, opened, masking_of(opened), AdamW(lr=1e-3), ranks=ranks,
        parallel=PARALLEL[parallel], batch_size=8, micro_batch_size=4 // num_parts,
    )  # fmt: skip
    weighing = Weighing()
    with weighing:
        training.step(Counters(), 0.5)
    return dict(weighing.bytes)


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "fsdp, offloaded"])
def test_a_step(parallel: str, num_parts: int, corpus_folder: Path, tmp_path: Path) -> None:
    """To the padding of shards, which a miniature notices."""
    size, teacher = (num_parameters(outlined(tiny_architecture(num_layers=n))) for n in (2, 1))
    planned = traffic(PARALLEL[parallel].sharding(2), size, torch.float32, num_parts, teacher)
    for found in together(2, weigh, parallel, num_parts, corpus_folder, tmp_path):
        assert found == pytest.approx(planned, rel=0.02)


def test_a_ring_written_out() -> None:
    """Four ranks pass a quarter to each other: three times, and for an all-reduce twice that."""
    assert sent({"all_reduce": 400}, 4) == 600
    assert sent({"all_gather": 400, "reduce_scatter": 800}, 4) == 900
    planned = traffic(Fsdp(), 100, torch.bfloat16, 3)
    assert planned == {"all_gather": 2 * 3 * 200, "reduce_scatter": 400}
