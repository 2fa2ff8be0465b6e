"""What is planned against what torch's own trackers count."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from dwt_cli import plan
from dwt_cli.alpha import Moment
from dwt_cli.config import Run
from dwt_cli.corpus.batches import Batch
from dwt_cli.machine import Machine
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import outline
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.mlm import MaskedLanguageModelling
from dwt_cli.training.optim import Optimizer
from tests.miniature import dwt_train, options

CPU = torch.device("cpu")
SIZES = ["scale.width=64", "scale.num_heads=2", "scale.mlp_width=128", "scale.vocab_size=1000",
         "train.batch_size=32", "student.num_layers=2", "teacher=none"]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_memory_against_the_tracker(
    composed: Callable[..., Run], family: str, optim: str, dtype: torch.dtype
) -> None:
    """A step of two micro-batches: the peak is in the second, when there are gradients."""
    run = composed(*SIZES, f"scale.family={family}", f"optim={optim}", "train.micro_batch_size=16")
    account = plan.memory(run, Machine(CPU, dtype), [])
    loss = MaskedLanguageModelling()
    with FakeTensorMode():
        model = MaskedLM(outline(run.student, CPU), dtype).train()
        optimizer = Optimizer(model, run.optim)
        rows_N = torch.zeros(16 * 9, dtype=torch.long)
        batch = Batch(torch.zeros(16, 64, dtype=torch.long), rows_N, rows_N)
        tracker = MemTracker()
        tracker.track_external(model, *optimizer.parts)
        with tracker:
            for _ in range(2):
                for _ in range(2):
                    loss(model, batch, Moment(0.5)).total.backward()
                    tracker.reset_mod_stats()
                optimizer.step()
                optimizer.zero_grad()
    found = tracker.get_tracker_snapshot("peak")[CPU]
    assert account.total == pytest.approx(found["Total"], rel=0.1), (account, found)


def test_parts_add_up(composed: Callable[..., Run]) -> None:
    for family in ("bert", "modernbert"):
        model = outline(composed(*SIZES, f"scale.family={family}").student)
        parts = plan.parameters_by_part(model)
        assert sum(parts.values()) == num_parameters(model)
        assert parts["embeddings"] > 64_000 and parts["head"] < 10_000, "tied, and counted once"


def test_the_papers_run(composed: Callable[..., Run]) -> None:
    """67 M parameters (section 3.1); 20 epochs are as long as conf/scale/paper.yaml says."""
    run = composed("scale=paper", "data=wikibooks", "run.train_tokens=737280000")
    assert num_parameters(outline(run.student)) == pytest.approx(67e6, rel=0.01)
    assert plan.num_steps(run) == run.scale.teacher_steps
    run.run.train_tokens = None
    assert plan.num_steps(run) is None
    run.train.max_steps, run.train.epochs = 7, None
    assert plan.num_steps(run) == 7


def test_hours() -> None:
    assert plan.hours(3600e12, 2, 0.5) == 1


def test_a_plan_touches_nothing(tmp_path: Path) -> None:
    answer = dwt_train(*options(tmp_path), "run.plan=true", "run.peak_tflops=1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for words in ("student, parameters", "teacher, FLOPs", "hours in all", "it fits"):
        assert words in answer.stdout
    assert list(tmp_path.iterdir()) == []
