"""A schedule as it is configured, drawn without training anything."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dwt_cli.alpha import Moment
from dwt_cli.config import Distributions, Run
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish
from dwt_cli.training.optim import lr_factor

_NUM_POINTS = 400


def draw_schedule(run: Run, picture: Path) -> None:
    """Loss weights, learning rate and temperatures over a run's progress, to a PNG."""
    matplotlib.use("Agg")
    shares = [point / _NUM_POINTS for point in range(_NUM_POINTS)]
    rates = [lr_factor(share, run.optim.warmup, run.optim.decay) for share in shares]
    weights = [
        run.alpha.weights(Moment(share, rate)) for share, rate in zip(shares, rates, strict=True)
    ]
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(shares, [w.hard for w in weights], color=BLUE, label="alpha_hard")
    left.plot(shares, [w.soft for w in weights], color=ORANGE, label="alpha_soft")
    left.set_ylim(bottom=0)
    title = "loss weights"
    if run.alpha.reacts:
        title += " (reacts to the training: as it begins)"
    finish(left, title, "weight", "share of the run")
    right.plot(shares, rates, color=GREY, label="learning rate, share of its peak")
    for name, objective in run.objective.items():
        if isinstance(objective, Distributions):
            temperatures = [objective.temperature_at(share) for share in shares]
            right.plot(shares, temperatures, color=GREEN, label=f"temperature of {name}")
    right.set_ylim(bottom=0)
    finish(right, "learning rate and temperature", "", "share of the run")
    choices = [f"{group}={run.choices[group]}" for group in ("alpha", "objective", "optim")]
    figure.suptitle("  ".join(choices), fontsize=10)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
