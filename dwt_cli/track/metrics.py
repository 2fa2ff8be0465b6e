"""metrics.jsonl: one JSON object per line and per step or evaluation, in the order of the steps."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO


class MetricsLog:
    """An observer that appends to a file, and cuts it back when a training resumes.

    Train lines have keys ``train/...``, evaluation lines ``heldout/...``, both have ``step``.
    every: write every so many steps' train line.
    """

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every
        self._file: IO[str] | None = None

    def resumed(self, step: int) -> None:
        kept = [line for line in read_lines(self._path) if line["step"] <= step]
        aside = self._path.with_suffix(".cut")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(aside, self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        if step % self._every == 0:
            self._write({"step": step, **{f"train/{key}": v for key, v in metrics.items()}})

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write({"step": step, **{f"heldout/{key}": v for key, v in metrics.items()}})

    def _write(self, line: dict[str, float]) -> None:
        assert self._file is not None, "resumed() opens the file"
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


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
