"""The same experiment on any number of ranks, to rounding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from dwt_cli.base.ranks import Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.options import Fsdp
from dwt_cli.training.parallel import Gradients, shard
from tests.conftest import masking_of, tiny_architecture
from tests.processes import together
from tests.training.conftest import (
    WITH_PROJECTIONS,
    Crashed,
    Late,
    Watcher,
    crash_after,
    make_training,
)
from tests.training.parity import (
    BATCH_SIZE,
    PARALLEL,
    Outcome,
    Setting,
    outcomes,
    relative_difference,
)

OF_LOSSES = {"adamw": 1e-5, "muon": 1e-3}

TWO = [
    Setting(2, "fsdp", 2),
    Setting(2, "ddp", 1, "muon"),
]
FOUR = [
    Setting(2, "fsdp, offloaded", 2),
    Setting(2, "ddp", 2, "adamw", "qwen3"),
    Setting(2, "fsdp, twice", 1, "adamw", "bert"),
    Setting(2, "fsdp", 2, "adamw", "qwen3"),
] + [
    Setting(num_ranks, parallel, accumulation, optim, family)
    for num_ranks in (2, 4)
    for parallel in ("ddp", "fsdp")
    for accumulation in (1, 2, 4)
    for optim in ("adamw", "muon")
    for family in ("bert", "modernbert", "gpt2")
]


@pytest.fixture(scope="module")
def alone(
    corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Outcome]:
    """The training in one process, for each optimiser and family."""
    found = {}
    for optim, family in {(s.optim, s.family) for s in TWO}:
        folder = tmp_path_factory.mktemp("alone")
        setting = Setting(optim=optim, family=family)
        (found[optim, family],) = outcomes(setting, corpus_folder, folder)
    return found


def check_parity(setting: Setting, alone: Outcome, corpus_folder: Path, folder: Path) -> None:
    seen = outcomes(setting, corpus_folder, folder)
    assert len(seen) == setting.num_ranks
    ids_BL = torch.cat([outcome.ids for outcome in seen])
    assert len(ids_BL) == BATCH_SIZE
    assert torch.equal(ids_BL, alone.ids), "disjoint shares, and their union is the batch"
    for outcome in seen:
        assert relative_difference(outcome.gradient, alone.gradient) < 1e-6
        assert outcome.losses == pytest.approx(alone.losses, rel=OF_LOSSES[setting.optim])
        assert outcome.losses == seen[0].losses
        for ours, theirs in zip(outcome.heldout, alone.heldout, strict=True):
            assert ours == pytest.approx(theirs, rel=10 * OF_LOSSES[setting.optim])


@pytest.mark.parametrize("setting", TWO, ids=str)
def test_two_ranks_are_one(
    setting: Setting, alone: dict[tuple[str, str], Outcome], corpus_folder: Path, tmp_path: Path
) -> None:
    check_parity(setting, alone[setting.optim, setting.family], corpus_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("setting", FOUR, ids=str)
def test_any_number_of_ranks_is_one(setting: Setting, corpus_folder: Path, tmp_path: Path) -> None:
    single = Setting(optim=setting.optim, family=setting.family)
    (alone,) = outcomes(single, corpus_folder, tmp_path / "alone")
    check_parity(setting, alone, corpus_folder, tmp_path)


RESUMED = [
    (Setting(2, "ddp"), Setting(1)),
    (Setting(2, "fsdp"), Setting(1)),
    pytest.param(Setting(2, "ddp"), Setting(2, "fsdp, offloaded"), marks=pytest.mark.slow),
    pytest.param(
        Setting(2, "fsdp", 1, "muon"), Setting(2, "fsdp", 1, "muon"), marks=pytest.mark.slow
    ),
    pytest.param(Setting(2, "fsdp"), Setting(4, "ddp"), marks=pytest.mark.slow),
    pytest.param(Setting(2, "ddp"), Setting(4, "fsdp"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("first", "then"), RESUMED, ids=str)
def test_a_checkpoint_goes_on_at_another_size(
    first: Setting,
    then: Setting,
    alone: dict[tuple[str, str], Outcome],
    corpus_folder: Path,
    tmp_path: Path,
) -> None:
    first = replace(first, num_steps=10, checkpoint_every=8)
    begun = outcomes(first, corpus_folder, tmp_path)[0]
    (gone_on, *_) = outcomes(then, corpus_folder, tmp_path)
    assert len(gone_on.losses) == 12, "from the checkpoint of step 8"
    if (first.num_ranks, first.parallel) == (then.num_ranks, then.parallel):
        assert gone_on.losses[:2] == begun.losses[8:10], "to the last bit"
    expected = alone[then.optim, then.family].losses
    tolerance = OF_LOSSES[then.optim]
    assert begun.losses[:8] + gone_on.losses == pytest.approx(expected, rel=tolerance)


@pytest.mark.slow
def test_a_projection_that_has_not_begun_begins_later(corpus_folder: Path, tmp_path: Path) -> None:
    """The checkpoint of step 3 has no moments of it, and those that it gets count from step 4."""
    for straight, continued in together(2, _late, corpus_folder, tmp_path):
        assert len(straight) == 2 * 3
        assert continued == straight


def _late(ranks: Ranks, corpus_folder: Path, folder: Path) -> tuple[list[float], list[float]]:
    """Losses of the last steps of trainings at one go, and of those that crashed and went on."""
    torch.set_num_threads(1)
    corpus = Corpus.open(corpus_folder)
    losses: dict[str, list[float]] = {"straight": [], "continued": []}

    def train(name: str, parallel: str, observer: Watcher) -> None:
        make_training(
            folder / name / parallel,
            corpus,
            masking_of(corpus),
            schedule=Late(),
            objectives=WITH_PROJECTIONS,
            observer=observer,
            ranks=ranks,
            parallel=PARALLEL[parallel],
            micro_batch_size=4,
            checkpoint_every=3,
        ).run()

    for parallel in ("ddp", "fsdp"):
        with pytest.raises(Crashed):
            train("continued", parallel, Watcher(then=crash_after(4)))
        for name, found in losses.items():
            seen = Watcher()
            train(name, parallel, seen)
            found += seen.losses()[-3:]
    return losses["straight"], losses["continued"]


def test_an_aux_gradient_of_one_rank_alone_is_refused() -> None:
    assert together(2, _uneven) == [True, True]


def _uneven(ranks: Ranks) -> bool:
    aux = nn.ModuleDict({"policy": nn.Linear(1, 1)})
    gradients = Gradients(nn.Linear(1, 1), aux, ranks)

    def step() -> None:
        with gradients.micro_batch(is_last=True):
            out = gradients.model(torch.ones(1, 1))
            (aux["policy"](out) if ranks.is_first else out).sum().backward()

    with pytest.raises(AssertionError, match="depends on a rank's data"):
        step()
    return True


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_never_holds_the_whole_model_while_it_is_sharded() -> None:
    """Rank 0 of eight, of which seven are not there: two of 24 layers at a time, and the shards."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        architecture = tiny_architecture("bert", 24, width=512, mlp_width=2048, num_heads=8)
        model = LanguageModel(make_model(architecture, 0, "student"), torch.float32)
        size = sum(parameter.nbytes for parameter in model.parameters())
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        shard(model, nn.ModuleDict(), Fsdp(), torch.device("cuda"), torch.float32)
        assert torch.cuda.max_memory_allocated() - before < size * (1 / 8 + 2 / 24)
    finally:
        dist.destroy_process_group()


@pytest.mark.cuda
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "fsdp, twice", "fsdp, offloaded"])
def test_on_cuda_over_nccl(
    num_ranks: int,
    parallel: str,
    alone: dict[tuple[str, str], Outcome],
    corpus_folder: Path,
    tmp_path: Path,
) -> None:
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} CUDA devices")
    setting, expected = Setting(num_ranks, parallel, device="cuda"), alone["adamw", "modernbert"]
    for outcome in outcomes(setting, corpus_folder, tmp_path):
        assert relative_difference(outcome.gradient, expected.gradient) < 1e-5
        assert outcome.losses == pytest.approx(expected.losses, rel=1e-4)
