"""What comparing features costs, against what torch counts and keeps."""

from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from dwt_cli.distill.objective.attention import Attention
from dwt_cli.distill.objective.features import Block, FeatureObjective
from dwt_cli.distill.objective.hidden import Distance, Hidden
from dwt_cli.distill.objective.itself import OwnDistance, SelfFeatures
from dwt_cli.distill.objective.masked import MaskedHidden
from dwt_cli.distill.objective.relations import MiniLM, MiniLMv2
from dwt_cli.models.features import Features, Heads
from dwt_cli.tasks.task import Batch

NUM_BLOCKS, LENGTH, NUM_TARGETS, NUM_HEADS = 4, 64, 10, 4
KEEP = [
    MiniLM(),
    MiniLMv2(),
    MiniLMv2(num_relation_heads=2),
    MiniLMv2(num_relation_heads=16),
    Attention(pairs=[[0, 0]]),
    Attention(pairs=[[n, n] for n in range(5)]),
    Hidden(),
    Hidden(pairs=[[n, n] for n in range(3)], distance=Distance.mse),
    Hidden(pairs=[[n, n] for n in range(5)]),
]
MULTIPLY = [
    *KEEP,
    MaskedHidden(),
    SelfFeatures(pairs=[[0, 2], [1, 2]], projection=True),
    SelfFeatures(pairs=[[0, 2]], distance=OwnDistance.emd),
]


def compare(
    objective: FeatureObjective, *sides: BertConfig, causal: bool = False
) -> tuple[torch.Tensor, Any]:
    """Return the loss of features of blocks, random numbers as they are requested, and these."""

    def features(config: BertConfig, wanted: frozenset[tuple[str, int]], learns: bool) -> Features:
        draw = partial(torch.randn, requires_grad=learns)
        of_heads = NUM_BLOCKS, NUM_HEADS, LENGTH, config.hidden_size // NUM_HEADS
        layers = {kind: {n for name, n in wanted if name == kind} for kind, _ in wanted}
        hidden = {n: draw(NUM_BLOCKS, LENGTH, config.hidden_size) for n in layers.get("hidden", ())}
        heads = {n: Heads(*draw(3, *of_heads)) for n in layers.get("heads", ())}
        rows_ND = draw(NUM_BLOCKS * NUM_TARGETS, config.hidden_size) if "rows" in layers else None
        return Features(hidden, heads, causal, rows_ND=rows_ND)

    part = objective.part("objective", *sides)
    ids_BL = torch.zeros(NUM_BLOCKS, LENGTH, dtype=torch.long)
    rows_N = torch.zeros(NUM_BLOCKS * NUM_TARGETS, dtype=torch.long)
    ours, theirs = map(features, sides, objective.requested(), (True, False))
    batch = Batch(ids_BL, rows_N, rows_N, ids_BL)
    return objective.compare(ours, theirs, part, batch), (ours, theirs)


def sizes(width: int, times: int) -> list[BertConfig]:
    """Return a student, and a teacher that is so many times as wide."""
    return [
        BertConfig(hidden_size=each, num_attention_heads=NUM_HEADS, num_hidden_layers=5)
        for each in (width, times * width)
    ]


@pytest.mark.parametrize(("width", "causal"), [(16, False), (128, False), (128, True)])
@pytest.mark.parametrize("objective", KEEP, ids=str)
def test_what_is_kept_and_worked_on_at_the_peak(
    objective: FeatureObjective, width: int, causal: bool
) -> None:
    sides = sizes(width, times=2)
    with FakeTensorMode(), (tracker := MemTracker()):
        loss, features = compare(objective, *sides, causal=causal)
        loss.backward()
        del features  # they were there until now, as in a step
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    if part := objective.part("objective", *sides):
        peak -= 4 * sum(each.numel() for each in part.parameters())  # no features
    assert objective.kept_bytes(*sides, NUM_BLOCKS, LENGTH) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("objective", MULTIPLY, ids=str)
def test_products_forward(objective: FeatureObjective) -> None:
    sides = sizes(32, times=1 if isinstance(objective, SelfFeatures) else 2)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        compare(objective, *sides)
    planned = NUM_BLOCKS * sum(objective.flops(*sides, Block(LENGTH, NUM_TARGETS)))
    assert planned == counter.get_total_flops() > 0
