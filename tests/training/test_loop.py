"""The loop: when it ends, what a split changes, what is skipped, what is reported."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dwt_cli.base.errors import UserError
from dwt_cli.base.interrupt import Interrupted
from dwt_cli.base.ranks import ALONE
from dwt_cli.training import loop
from dwt_cli.training.loop import Training
from dwt_cli.training.options import AdamW, NonFinite, Train
from dwt_cli.training.parallel import Gradients
from dwt_cli.training.protocols import LossSum, Moment
from tests.training.conftest import WITH_PROJECTIONS

Make = Callable[..., Training]


def weights(training: Training) -> torch.Tensor:
    return nn.utils.parameters_to_vector(training.model.parameters()).detach()


# ------------------------------------------------------------------------- sums over any split


@pytest.mark.parametrize(
    ("optim", "of_losses", "of_weights"),
    [
        ("adamw", 1e-6, 1e-5),
        ("muon", 3e-5, 0.03),  # its orthogonalisation computes in bf16
    ],
)
def test_micro_batches_change_nothing_but_rounding(
    training: Make, watcher: Any, optim: str, of_losses: float, of_weights: float
) -> None:
    found = {}
    for num_parts in (1, 2, 4):
        seen = watcher()
        made = training(optim, num_parts=num_parts, observer=seen, folder=str(num_parts))
        start = weights(made)
        made.run()
        found[num_parts] = (torch.tensor(seen.losses()), weights(made), seen)
        assert (weights(made) - start).abs().max() > 1e-3
    losses, whole, seen = found[1]
    for num_parts in (2, 4):
        torch.testing.assert_close(found[num_parts][0], losses, rtol=of_losses, atol=0)
        apart = (found[num_parts][1] - whole).norm() / (whole - start).norm()
        assert apart < of_weights
        for key, value in seen.steps[-1][2].items():
            if not key.endswith("_s"):
                assert found[num_parts][2].steps[-1][2][key] == pytest.approx(value, rel=1e-3), key


def test_a_steps_loss_and_gradient_are_means_over_its_targets(training: Make, watcher: Any) -> None:
    seen = watcher()
    made = training(AdamW(lr=1e-9, warmup=0.0, decay=0.0), observer=seen, max_steps=1)
    batch = made.batches.batch(0)
    expected = made.loss(made.model, batch, Moment(0.0))
    mean = expected.total / len(batch.labels_N)
    gradient = torch.autograd.grad(mean, list(made.model.parameters()))
    made.run()
    _, progress, metrics = seen.steps[0]
    assert metrics["loss"] == pytest.approx(mean.item(), rel=1e-6)
    assert metrics["hard_loss"] + metrics["soft_loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(
        torch.cat([g.flatten() for g in gradient]).norm().item(), rel=1e-4
    )
    assert metrics["tokens"] == 8 * 24
    assert progress == 1.0


def test_dropout_follows_from_the_step_not_from_the_process(training: Make, watcher: Any) -> None:
    one, two = watcher(), watcher()
    training(dropout=0.3, observer=one, folder="one").run()
    torch.rand(17)
    training(dropout=0.3, observer=two, folder="two", eval_every=2).run()
    assert one.losses() == two.losses(), "nor from how often it is evaluated"
    without = watcher()
    training(observer=without, folder="three").run()
    assert without.losses() != one.losses()


def test_it_learns(training: Make, watcher: Any) -> None:
    seen = watcher()
    training(
        AdamW(lr=1e-2, warmup=0.1, decay=0.5),
        observer=seen,
        max_steps=60,
        eval_every=60,
        batch_size=16,
        micro_batch_size=None,
    ).run()
    assert seen.steps[-1][2]["hard_loss"] < seen.steps[0][2]["hard_loss"] - 0.7


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_aux_is_clipped_by_itself(training: Make, watcher: Any, factor: float) -> None:
    """A thousandfold gradient of the projections leaves the student's step as it is, bit by bit."""
    stepped, seen = [], watcher()
    for each in (1.0, factor):
        made = training(
            AdamW(lr=1e-2, warmup=0.0, decay=0.0, clip_norm=1e-3),
            objectives=WITH_PROJECTIONS,
            observer=seen,
            max_steps=1,
            folder=f"{len(stepped)}",
        )
        aux = list(made.loss.aux.parameters())
        for parameter in aux:
            parameter.register_hook(lambda gradient, each=each: each * gradient)
        made.run()
        stepped.append(weights(made))
    assert torch.equal(*stepped)
    assert all(metrics["grad_norm"] > 1e-3 for _, _, metrics in seen.steps), "it is clipped"
    made.accumulate(1, Moment(0.5))
    norms = Gradients(made.model, made.loss.aux, ALONE).clip(1e-3)
    assert norms[1] > 1e-3
    assert nn.utils.get_total_norm([p.grad for p in aux]).item() == pytest.approx(1e-3, rel=1e-2)


# ------------------------------------------------------------------ when it ends, what is reported


class Toy:
    """A model with one weight, a loss of it, and batches of four targets."""

    batch_size, tokens_per_step, steps_per_epoch = 2, 10, 2.5

    def num_targets(self, step: int) -> int:
        return 4

    def __init__(self, total: Callable[[torch.Tensor, int], torch.Tensor] | None = None) -> None:
        self.model, self.aux = nn.Linear(1, 1, bias=False), nn.ModuleDict()
        self.total = total or (lambda weight, step: weight.square().sum())

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any:
        return SimpleNamespace(to=lambda device: step)

    def __call__(self, model: nn.Module, step: int, moment: Moment) -> LossSum:
        return LossSum(self.total(model.weight, step), {}, {"progress": moment.progress})

    def remember(
        self, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        return memory


def toy_training(
    training: Make, toy: Toy, watcher: Any, evaluate: Any = None, eval_every: int = 2, **train: Any
) -> Training:
    made = training(**train, observer=watcher)
    return replace(
        made,
        model=toy.model,
        loss=toy,
        batches=toy,
        eval_every=eval_every,
        optim=AdamW(lr=0.1, warmup=0.0, decay=0.0, clip_norm=1.0),
        evaluate=evaluate or (lambda model: {"loss": 1.0}),
        options=replace(made.options, micro_batch_size=None),
    )


def test_micro_batches_of_unequal_rows_are_divided_once(training: Make) -> None:
    """One row with a loss of 1, and three with 3 each: 2.5, where the mean of means is 2."""

    class Rows(Toy):
        def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any:
            return SimpleNamespace(to=lambda device: part)

    rows = Rows(lambda weight, part: (1.0, 9.0)[part] * weight.sum())
    nn.init.ones_(rows.model.weight)
    made = toy_training(training, rows, None)
    made = replace(made, options=replace(made.options, micro_batch_size=4))
    assert made.accumulate(0, Moment(0.0))["loss"] == 2.5
    assert rows.model.weight.grad == 2.5


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_steps": 5}, 5),
        ({"max_steps": None, "epochs": 2.0}, 5),
        ({"max_steps": None, "epochs": 0.01}, 1),
        ({"max_steps": 3, "epochs": 2.0}, 3),
        ({"max_steps": 7, "epochs": 2.0}, 5),
    ],
)
def test_the_first_limit_ends_it_and_every_step_is_reported_once(
    training: Make, watcher: Any, limits: dict[str, Any], expected: int
) -> None:
    seen = watcher()
    counters = toy_training(training, Toy(), seen, **limits).run()
    assert counters.step == expected
    assert seen.starts == [0]
    assert [step for step, _, _ in seen.steps] == list(range(1, expected + 1))
    assert [progress for _, progress, _ in seen.steps] == pytest.approx(
        [step / expected for step in range(1, expected + 1)]
    )
    assert [metrics["progress"] for _, _, metrics in seen.steps] == pytest.approx(
        [step / expected for step in range(expected)]
    )
    assert [step for step, _ in seen.evaluations] == sorted({*range(2, expected + 1, 2), expected})


def test_minutes_end_it_and_evaluating_counts(
    training: Make, watcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step and an evaluation take a second each: 1 2 E 3 4 E 5 6 E: the ninth is an E."""
    now = iter(range(1000))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(now))))
    seen = watcher()
    made = toy_training(
        training,
        Toy(),
        seen,
        max_steps=None,
        max_minutes=9 / 60,
        checkpoint_every=100,
        evaluate=lambda model: {"loss": 1.0},
    )
    counters = made.run()
    assert (counters.step, counters.elapsed_s) == (6, 9.0)
    assert [step for step, _ in seen.evaluations] == [2, 4, 6]
    assert made.checkpoints.steps()[-1] == 6, "the end is kept, whatever ended it"
    assert [progress for _, progress, _ in seen.steps] == pytest.approx(
        [1 / 9, 2 / 9, 4 / 9, 5 / 9, 7 / 9, 8 / 9]
    )


def test_progress_is_that_of_the_nearest_limit() -> None:
    both = Train(max_steps=10, epochs=3.0, max_minutes=1.0, batch_size=2)
    assert both.progress(2.5, 4, 6) == 0.5, "three epochs are 8 steps"
    assert both.progress(2.5, 4, 45) == 0.75
    assert both.progress(2.5, 50, 45) == 1.0
    assert replace(both, epochs=None).progress(2.5, 4, 6) == 0.4
    assert replace(both, max_steps=None, epochs=None).progress(2.5, 50, 6) == 0.1


def test_the_best_is_remembered(training: Make, watcher: Any) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0])
    made = toy_training(
        training,
        Toy(),
        watcher(),
        max_steps=8,
        checkpoint_every=100,
        keep_checkpoints=1,
        evaluate=lambda model: {"loss": next(losses)},
    )
    counters = made.run()
    assert (counters.best_loss, counters.best_step) == (2.0, 4)
    assert made.checkpoints.steps() == [4, 8]


# --------------------------------------------------------------------------- what is no number


def _nan_loss(weight: torch.Tensor, step: int) -> torch.Tensor:
    return weight.square().sum() * (float("nan") if step == 1 else 1.0)


def _infinite_loss(weight: torch.Tensor, step: int) -> torch.Tensor:
    return weight.square().sum() + (float("inf") if step == 1 else 0.0)


def _nan_gradient(weight: torch.Tensor, step: int) -> torch.Tensor:
    return (weight * 0).sqrt().sum() if step == 1 else weight.square().sum()


NON_FINITE = pytest.mark.parametrize("total", [_nan_loss, _infinite_loss, _nan_gradient])


@NON_FINITE
def test_stop_names_the_step(training: Make, watcher: Any, total: Any) -> None:
    seen = watcher()
    made = toy_training(training, Toy(total), seen)
    with pytest.raises(
        UserError, match=r"^step 2: loss .*gradient norm .*train.non_finite=skip or rollback$"
    ):
        made.run()
    assert len(seen.steps) == 1
    assert weights(made).isfinite().all()


@NON_FINITE
def test_skip_counts_and_leaves_the_weights_untouched(
    training: Make, watcher: Any, total: Any
) -> None:
    toy, after = Toy(total), []
    seen = watcher(then=lambda step: after.append(toy.model.weight.item()))
    counters = toy_training(training, toy, seen, non_finite=NonFinite.skip, max_steps=4).run()
    assert counters.num_skipped == 1
    assert after[1] == after[0]
    assert len(set(after)) == 3
    assert [metrics["num_skipped"] for _, _, metrics in seen.steps] == [0, 1, 1, 1]


# -------------------------------------------------------------------------------- being stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_asks_for_a_checkpoint_and_the_next_start_goes_on(
    training: Make, watcher: Any, number: signal.Signals
) -> None:
    straight = watcher()
    training(observer=straight, folder="straight").run()

    seen = watcher(then=lambda step: os.kill(os.getpid(), number) if step == 3 else None)
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    made = training(observer=seen)
    with pytest.raises(Interrupted) as stopped:
        made.run()
    assert stopped.value.step == 3
    assert made.checkpoints.steps() == [3]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers

    after = watcher()
    counters = training(observer=after).run()
    assert (after.starts, counters.step) == ([3], 6)
    assert [step for step, _, _ in seen.steps + after.steps] == [1, 2, 3, 4, 5, 6]
    assert seen.losses() + after.losses() == straight.losses()


def test_asked_to_stop_in_its_last_step_it_stops_with_nothing_left_to_train(
    training: Make, watcher: Any
) -> None:
    seen = watcher(then=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None)
    made = training(observer=seen)
    with pytest.raises(Interrupted):
        made.run()
    assert made.checkpoints.steps() == [6]
    again = watcher()
    assert training(observer=again).run().step == 6
    assert again.steps == []


def test_a_finished_training_has_nothing_to_do(training: Make, watcher: Any) -> None:
    training().run()
    seen = watcher()
    made = training(observer=seen)
    counters = made.run()
    assert (counters.step, seen.starts, seen.steps) == (6, [6], [])
