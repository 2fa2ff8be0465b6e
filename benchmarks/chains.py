"""What benchmarks of chains share: their commands and their arguments."""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Program:
    """`dwt-train` with the words that all of its commands have."""

    root: Path
    words: tuple[str, ...]

    def __call__(self, *words: str) -> list[str]:
        """Return the lines that a command prints, which is told so on stderr."""
        command = [*words, *self.words, f"run.root={self.root}", "tracker=none"]
        print(shlex.join(["dwt-train", *command]), file=sys.stderr, flush=True)
        program = str(Path(sys.executable).with_name("dwt-train"))
        done = subprocess.run([program, *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-500:]}{done.stderr}")
        return done.stdout.splitlines()

    def stages(self, *words: str) -> list[dict[str, Any]]:
        """Return the stages of a finished chain, each with the summary of its run."""
        lines = self(*words)
        (file,) = [line.removeprefix("json: ") for line in lines if line.startswith("json: ")]
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        folders = [Path(file).parent / link["folder"] for link in content["links"]]
        texts = [(folder / "summary.json").read_text(encoding="utf-8") for folder in folders]
        stages = [row for row in content["table"] if row["kind"] == "stage"]
        return [
            row | {"summary": json.loads(text)} for row, text in zip(stages, texts, strict=True)
        ]


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all of them have."""
    parser = argparse.ArgumentParser(description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--teacher", help="a run's folder; by default one of 2 layers is trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--overrides", nargs="*", default=[], help="words of every run")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    return parser
