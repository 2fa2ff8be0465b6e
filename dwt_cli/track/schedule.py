"""A schedule as it is configured, drawn without training anything."""

from collections.abc import Mapping
from pathlib import Path

from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.objective.base import Objective, divergences
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish, panels, save
from dwt_cli.training.options import Optim
from dwt_cli.training.protocols import Moment

RATE = "learning rate, share of its peak"


def schedule_curves(
    alpha: Schedule, optim: Optim, objectives: Mapping[str, Objective], num_points: int = 400
) -> tuple[list[float], dict[str, list[float]]]:
    """Return points of a run, equally far apart, and what is configured at each, by its name.

    A schedule that reacts to the training is as it begins.
    """
    progress = [point / num_points for point in range(num_points)]
    factors = [optim.lr_factor(share) for share in progress]
    weights = [alpha.weights(Moment(*now)) for now in zip(progress, factors, strict=True)]
    return progress, {
        "alpha_hard": [weight.hard for weight in weights],
        "alpha_soft": [weight.soft for weight in weights],
        RATE: factors,
        **{
            f"temperature of {name}": [objective.temperature_at(share) for share in progress]
            for name, objective in divergences(objectives).items()
        },
    }


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
    progress, curves = schedule_curves(alpha, optim, objectives)
    figure, (left, right) = panels(2, height=3.6)
    colours = {"alpha_hard": BLUE, "alpha_soft": ORANGE, RATE: GREY}
    for name, values in curves.items():
        axes = left if name.startswith("alpha") else right
        axes.plot(progress, values, color=colours.get(name, GREEN), label=name)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    reacts = alpha.reacts or alpha.crossing
    title = "loss weights" + (" (reacts to the training: as it begins)" if reacts else "")
    finish(left, title, "weight", "share of the run")
    finish(right, "learning rate and temperature", "", "share of the run")
    chosen = [f"{group}={choices[group]}" for group in ("alpha", "objective", "optim")]
    picture.parent.mkdir(parents=True, exist_ok=True)
    save(figure, "  ".join(chosen), picture)
