"""What a run writes down along the way: metrics.jsonl, and the settings of config.yaml."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import yaml

from dwt_cli.base import atomic


class MetricsLog:
    """An observer that appends a JSON object per step or evaluation, and cuts back on resumption.

    Train lines have keys ``train/...``, evaluation lines ``heldout/...``, both have ``step``;
    ``train/progress`` is the share of the training that is done. What is no number is null.
    every: write every so many steps' train line.
    """

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every
        self._file: FileIO | None = None

    def resumed(self, step: int) -> None:
        """Cut to what a checkpoint of ``step`` has seen; a start from step 0 sees it all again."""
        kept = [line for line in read_lines(self._path) if step and line["step"] <= step]
        atomic.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("ab", buffering=0)

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        if step % self._every == 0:
            named = {f"train/{key}": value for key, value in metrics.items()}
            self._write({"step": step, "train/progress": progress, **named})

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write({"step": step, **{f"heldout/{key}": v for key, v in metrics.items()}})
        assert self._file is not None
        os.fsync(self._file.fileno())

    def _write(self, line: dict[str, float]) -> None:
        assert self._file is not None, "resumed() opens the file"
        finite = {key: value if math.isfinite(value) else None for key, value in line.items()}
        left = (json.dumps(finite, allow_nan=False) + "\n").encode()
        while left:
            left = left[self._file.write(left) :]


def newest(path: Path) -> tuple[int | None, float | None, float | None]:
    """The last step, the share of the training that it ends, and the last held-out loss."""
    last = [b"{}", b"{}"]  # a train line and a held-out line
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                last[b'"heldout/loss"' in text] = text
    train, heldout = map(json.loads, last)
    return train.get("step"), train.get("train/progress"), heldout.get("heldout/loss")


def heldout_losses(lines: Iterable[Mapping[str, float]]) -> list[tuple[int, float]]:
    """Return the step and the loss of every evaluation that has one."""
    key = "heldout/loss"
    return [(int(line["step"]), line[key]) for line in lines if line.get(key) is not None]


def first_at(points: Iterable[tuple[float, float]], level: float) -> float | None:
    """Return the x at which y first comes down to a level, between points (x, y) linearly.

    None: it never does.
    """
    before: tuple[float, float] | None = None
    for x, y in points:
        if y <= level:
            from_x, from_y = before or (x, y)
            share = (from_y - level) / (from_y - y) if from_y > y else 1.0
            return from_x + share * (x - from_x)
        before = x, y
    return None


def read_lines(path: Path) -> list[dict[str, float]]:
    """The whole lines of a metrics file; a torn last line is left out, no file is no lines."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def read_settings(folder: Path) -> dict[str, Any]:
    """Return a run's config.yaml; empty where it cannot be read."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(text, loader) or {}  # noqa: S506
    except (OSError, ValueError, yaml.YAMLError):
        return {}
