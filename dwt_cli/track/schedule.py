"""A schedule as it is configured, drawn without training anything."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.objective.options import Distributions, Objective
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish
from dwt_cli.training.moment import Moment
from dwt_cli.training.options import Optim

_NUM_POINTS = 400


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
    shares = [point / _NUM_POINTS for point in range(_NUM_POINTS)]
    rates = [optim.lr_factor(share) for share in shares]
    weights = [
        alpha.weights(Moment(share, rate)) for share, rate in zip(shares, rates, strict=True)
    ]
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(shares, [w.hard for w in weights], color=BLUE, label="alpha_hard")
    left.plot(shares, [w.soft for w in weights], color=ORANGE, label="alpha_soft")
    left.set_ylim(bottom=0)
    title = "loss weights"
    if alpha.reacts:
        title += " (reacts to the training: as it begins)"
    finish(left, title, "weight", "share of the run")
    right.plot(shares, rates, color=GREY, label="learning rate, share of its peak")
    for name, objective in objectives.items():
        if isinstance(objective, Distributions):
            temperatures = [objective.temperature_at(share) for share in shares]
            right.plot(shares, temperatures, color=GREEN, label=f"temperature of {name}")
    right.set_ylim(bottom=0)
    finish(right, "learning rate and temperature", "", "share of the run")
    chosen = [f"{group}={choices[group]}" for group in ("alpha", "objective", "optim")]
    figure.suptitle("  ".join(chosen), fontsize=10)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
