"""The accounts of a step: whose work is whose, and what is left behind."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._C._autograd import _profiler_enabled
from torch.profiler import profile

from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training import profile as profiling
from dwt_cli.training.profile import SKIPPED, TAKEN, Profile, accounts, span
from tests.conftest import tiny_architecture

CPU = torch.device("cpu")
ROWS, WIDTH, SIZE = 16, 32, 64


def test_a_backward_pass_belongs_to_the_part_of_its_forward_pass() -> None:
    first, last = nn.Linear(WIDTH, SIZE), nn.Linear(SIZE, 8)
    inputs = torch.randn(ROWS, WIDTH, requires_grad=True)
    with profile(record_shapes=True, with_flops=True) as taken:
        with span("first"):
            hidden = first(inputs)
            with torch.no_grad(), span("other"):
                first(inputs)
            with span("last"):
                loss = last(hidden).sum()
        loss.backward()
    spent = accounts(taken.events(), 1, on_gpu=False)
    of_first, of_last = 2 * ROWS * WIDTH * SIZE, 2 * ROWS * SIZE * 8
    assert {name: flops for name, (_, flops) in spent.items() if flops} == {
        "first": of_first,
        "other": of_first,
        "last": of_last,
        "first, backward": 2 * of_first,
        "last, backward": 2 * of_last,
    }
    in_all = sum(event.self_cpu_time_total for event in taken.events())
    assert sum(seconds for seconds, _ in spent.values()) == pytest.approx(in_all / 1e6)


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(make_model(tiny_architecture("modernbert"), 0, "student"), torch.float32)


def take(num_steps: int, model: LanguageModel, taken: Profile) -> None:
    ids_BL, rows_N = torch.zeros(2, 8, dtype=torch.long), torch.arange(0, 16, 4)
    for step in range(1, num_steps + 1):
        with span("student"):
            loss = model(ids_BL, rows_N).logits_NV.sum()
        loss.backward()
        taken.stepped(step, 0.5, {})


def has_hooks(model: LanguageModel) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


@pytest.mark.slow
def test_a_few_steps_leave_a_trace_and_a_table_and_nothing_else(
    model: LanguageModel, tmp_path: Path
) -> None:
    said: list[str] = []
    with Profile(model, CPU, tmp_path, said.append) as taken:
        take(SKIPPED + TAKEN + 2, model, taken)
    table = (tmp_path / "profile.md").read_text()
    assert said == [table.rstrip("\n")]
    for name in ("embeddings", "layers: attn", "layers: attn, backward", "head", "head, backward"):
        assert f"| {name} |" in table
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    found = [each for each in trace["traceEvents"] if each.get("name") == "part: embeddings"]
    assert len(found) == TAKEN
    assert not has_hooks(model)


@pytest.mark.parametrize("num_steps", [0, SKIPPED - 1, SKIPPED, SKIPPED + TAKEN - 1])
def test_a_training_that_ends_before_says_so_and_is_not_recorded_any_more(
    model: LanguageModel, tmp_path: Path, num_steps: int
) -> None:
    said: list[str] = []
    with Profile(model, CPU, tmp_path, said.append) as taken:
        take(num_steps, model, taken)
        assert has_hooks(model) == _profiler_enabled() == (num_steps >= SKIPPED)
    assert not has_hooks(model) and not _profiler_enabled()
    assert list(tmp_path.iterdir()) == []
    (line,) = said
    assert line.startswith("warning: train.profile=true") and line.endswith(f" took {num_steps}")


def test_without_memory_for_the_product_the_rest_is_there(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(*arguments: object) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(profiling, "matrix_peak", peak)
    take(SKIPPED + TAKEN, model, Profile(model, CPU, tmp_path, print))
    table = (tmp_path / "profile.md").read_text()
    assert "| embeddings |" in table and "matrix product" not in table
