"""All arms of one factor at one seed: a table and a picture to look at, and no verdict.

Each ``--arm`` is a few words of `dwt-train`, as in ``--arm "alpha=step alpha.until=0.3"``. The
first is what the others are compared with. Runs that are finished are found again, so the same
command goes on where it stopped. One seed: differences below a few hundredths of a nat are noise.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib
from equal_compute import Command, Summary
from matplotlib.figure import Figure
from provenance import provenance
from timing import table

from dwt_cli.track.metrics import read_lines

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
_STYLES = ("-", "--", ":")


def _loss(summary: Summary) -> float:
    loss: float = summary["student"]["heldout"]["loss"]
    return loss


def _milliseconds(lines: list[dict[str, float]], taught: bool) -> str:
    """Per step: the median over the steps in which the teacher ran, or did not."""
    times = [
        line["train/tokens"] / line["step"] / line["train/tokens_per_s"]
        for line in lines
        if "train/tokens_per_s" in line and ("train/teacher_loss" in line) == taught
    ]
    return f"{1e3 * statistics.median(times):.0f}" if times else ""


def _rows(arms: dict[str, tuple[Summary, list[dict[str, float]]]]) -> list[str]:
    first = _loss(next(iter(arms.values()))[0])
    rows = []
    for arm, (summary, lines) in sorted(arms.items(), key=lambda each: _loss(each[1][0])):
        student, teacher = summary["student"], summary["teacher"]
        rows.append(
            [
                f"`{arm}`",
                f"{student['heldout_at_start']['loss']:.3f}",
                f"{_loss(summary):.4f}",
                f"{_loss(summary) - first:+.4f}",
                f"{teacher['heldout']['loss']:.3f}" if teacher else "",
                f"{student['num_taught']:.0f} of {student['steps']}",
                _milliseconds(lines, taught=True),
                _milliseconds(lines, taught=False),
            ]
        )
    head = ["arm", "at step 0", "at the end", "minus the first arm", "teacher's loss", "taught"]
    return table([*head, "ms per step, taught", "untaught"], rows)


def draw(arms: dict[str, tuple[Summary, list[dict[str, float]]]], picture: Path) -> None:
    """Left: held-out loss over steps; right: at the end, minus the first arm's."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(12, 0.9 + 0.33 * max(len(arms), 10)), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = _loss(next(iter(arms.values()))[0])
    order = sorted(arms, key=lambda arm: -_loss(arms[arm][0]))
    for number, (arm, (_, lines)) in enumerate(arms.items()):
        points = [(line["step"], line["heldout/loss"]) for line in lines if "heldout/loss" in line]
        colour, style = _COLOURS[number % 7], _STYLES[number // 7]
        left.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.2, label=arm)
        gap = _loss(arms[arm][0]) - first
        right.barh(order.index(arm), gap, color=colour, hatch="/" * (number // 7))
    left.set_title("held-out loss (nats per masked token)", fontsize=10)
    left.set_xlabel("optimizer step")
    left.legend(fontsize=7, frameon=False)
    left.grid(alpha=0.25)
    right.set_yticks(range(len(order)), order, fontsize=8)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_title(f"at the end, minus `{next(iter(arms))}` (left is better)", fontsize=10)
    right.grid(alpha=0.25, axis="x")
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", action="append", required=True, help="words of dwt-train")
    parser.add_argument("--overrides", nargs="*", default=[], help="words that all arms share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="run.root of every run")
    parser.add_argument("--out", type=Path, required=True, help="NAME: NAME.md and NAME.png")
    options = parser.parse_args()
    root = options.root.absolute()
    command = Command(root, tuple(options.overrides))
    where = provenance()
    arms = {}
    for arm in options.arm:
        summary = command(options.seed, *arm.split())
        (record,) = root.glob(f"*{summary['identity']}")
        arms[arm] = summary, read_lines(record / "metrics.jsonl")
    draw(arms, options.out.with_suffix(".png"))
    text = "\n".join([*where, "", *_rows(arms), ""])
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
