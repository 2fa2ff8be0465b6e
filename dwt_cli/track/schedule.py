"""A schedule as it is configured, drawn without training anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.objective.base import Objective, divergences
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish
from dwt_cli.training.moment import Moment
from dwt_cli.training.options import Optim


@dataclass(frozen=True)
class Curves:
    """A schedule at equal distances over a run; temperatures: by the objective's name."""

    progress: list[float]
    alpha_hard: list[float]
    alpha_soft: list[float]
    lr_factor: list[float]
    temperatures: dict[str, list[float]]


def schedule_curves(
    alpha: Schedule, optim: Optim, objectives: Mapping[str, Objective], num_points: int = 400
) -> Curves:
    """Return what is configured, at each point of a run; a schedule that reacts: as it begins."""
    progress = [point / num_points for point in range(num_points)]
    factors = [optim.lr_factor(share) for share in progress]
    weights = [alpha.weights(Moment(*now)) for now in zip(progress, factors, strict=True)]
    return Curves(
        progress,
        alpha_hard=[weight.hard for weight in weights],
        alpha_soft=[weight.soft for weight in weights],
        lr_factor=factors,
        temperatures={
            name: [objective.temperature_at(share) for share in progress]
            for name, objective in divergences(objectives).items()
        },
    )


def draw_schedule(
    alpha: Schedule,
    optim: Optim,
    objectives: Mapping[str, Objective],
    choices: Mapping[str, str],
    picture: Path,
) -> None:
    """Draw loss weights, learning rate and temperatures over a run's progress, as a PNG.

    choices: the name picked in each config group, for the title.
    """
    matplotlib.use("Agg")
    curves = schedule_curves(alpha, optim, objectives)
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curves.progress, curves.alpha_hard, color=BLUE, label="alpha_hard")
    left.plot(curves.progress, curves.alpha_soft, color=ORANGE, label="alpha_soft")
    left.set_ylim(bottom=0)
    title = "loss weights" + (" (reacts to the training: as it begins)" if alpha.reacts else "")
    finish(left, title, "weight", "share of the run")
    factor = "learning rate, share of its peak"
    right.plot(curves.progress, curves.lr_factor, color=GREY, label=factor)
    for name, temperatures in curves.temperatures.items():
        right.plot(curves.progress, temperatures, color=GREEN, label=f"temperature of {name}")
    right.set_ylim(bottom=0)
    finish(right, "learning rate and temperature", "", "share of the run")
    chosen = [f"{group}={choices[group]}" for group in ("alpha", "objective", "optim")]
    figure.suptitle("  ".join(chosen), fontsize=10)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
