"""A run's curves as one PNG: held-out loss, both losses on training batches, loss weights."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dwt_cli.track.metrics import read_lines

# Okabe and Ito's colours: told apart by colour-blind readers
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def draw_curves(
    metrics: Path, picture: Path, title: str, references: dict[str, float], unit: str
) -> None:
    """Draw ``metrics.jsonl`` to a PNG.

    references: held-out losses to compare with, by name. unit: what losses are in.
    """
    lines = read_lines(metrics)
    with_teacher = any(line.get("train/alpha_soft") for line in lines)
    figure, axes = panels(3 if with_teacher else 2)
    _curve(axes[0], lines, "heldout/loss", "this model", BLUE, marker="o")
    for (name, loss), colour in zip(references.items(), (ORANGE, GREEN), strict=False):
        axes[0].axhline(loss, color=colour, linestyle="--", label=f"{name}, at its end")
    finish(axes[0], "held-out loss", unit)
    _curve(axes[1], lines, "train/hard_loss", "hard: with the label", BLUE)
    _curve(axes[1], lines, "train/soft_loss", "soft: against the teacher", ORANGE)
    _curve(axes[1], lines, "train/teacher_loss", "the teacher's own, with the label", GREY)
    finish(axes[1], "losses on training batches", unit)
    if with_teacher:
        _curve(axes[2], lines, "train/alpha_hard", "alpha_hard", BLUE)
        _curve(axes[2], lines, "train/alpha_soft", "alpha_soft", ORANGE)
        axes[2].set_ylim(bottom=0)
        finish(axes[2], "loss weights", "weight")
    save(figure, title, picture)


def _curve(
    axes: Axes, lines: list[dict[str, float]], key: str, label: str, colour: str, marker: str = ""
) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        steps, values = zip(*points, strict=True)
        look: dict[str, Any] = {"linewidth": 1.3, "marker": marker, "markersize": 3.5}
        axes.plot(steps, values, color=colour, label=label, **look)


def panels(num: int, width: float = 4.25, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels beside one another, each of a width and height in inches."""
    figure = Figure(figsize=(num * width, height), layout="constrained")
    return figure, list(figure.subplots(1, num, squeeze=False)[0])


def save(figure: Figure, title: str, picture: Path, size: int = 10, dpi: int = 110) -> None:
    """Write a figure with a title on top as a PNG."""
    figure.suptitle(title, fontsize=size)
    figure.savefig(picture, dpi=dpi)


def finish(axes: Axes, title: str, unit: str, along: str = "optimizer step") -> None:
    """Give axes a title, units, a grid, and a legend if there is anything to tell apart."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(along)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
