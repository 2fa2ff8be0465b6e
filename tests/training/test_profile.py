"""The accounts of a step: whose work is whose, and what is left behind."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import profile

from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.profile import SKIPPED, TAKEN, Profile, accounts, span
from tests.conftest import tiny_architecture

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


def test_a_few_steps_leave_a_trace_and_a_table_and_nothing_else(tmp_path: Path) -> None:
    model = LanguageModel(make_model(tiny_architecture("modernbert"), 0, "student"), torch.float32)
    said: list[str] = []
    taken = Profile(model, torch.device("cpu"), tmp_path, said.append)
    ids_BL, rows_N = torch.zeros(2, 8, dtype=torch.long), torch.arange(0, 16, 4)
    for step in range(1, SKIPPED + TAKEN + 3):
        with span("student"):
            loss = model(ids_BL, rows_N).logits_NV.sum()
        loss.backward()
        taken.stepped(step, 0.5, {})
    table = (tmp_path / "profile.md").read_text()
    assert said == [table.rstrip("\n")]
    for name in ("embeddings", "layers: attn", "layers: attn, backward", "head", "head, backward"):
        assert f"| {name} |" in table
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    found = [each for each in trace["traceEvents"] if each.get("name") == "part: embeddings"]
    assert len(found) == TAKEN
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())
