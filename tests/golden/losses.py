"""The losses of miniatures in double precision: losses.json.

``python -m tests.golden.losses`` rewrites the file. The runs go through the whole product, with
fp64 where it says fp32, so that what rounding and machines differ in is far below 1e-9.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from rich.console import Console

from dwt_cli.config.compose import runs_of
from dwt_cli.recipe.worker import work
from tests.golden import miniatures

FILE = Path(__file__).with_name("losses.json")

COMPOSITIONS = {**miniatures.ALONE, **miniatures.TAUGHT}

Losses = dict[str, list[float]]
"""What metrics.jsonl has by name, in the order of the steps; no timings."""


@contextmanager
def double() -> Iterator[None]:
    """Compute in fp64 wherever the code asks for fp32, and torch's Muon for bf16; draw nothing."""
    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(torch, "float32", torch.float64),
            patch.object(torch.Tensor, "float", torch.Tensor.double),
            patch.object(torch.Tensor, "bfloat16", torch.Tensor.double),
            patch.object(Figure, "savefig"),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def losses(folder: Path, name: str) -> Losses:
    """Train a miniature below a folder that has a text; teachers are shared among them."""
    words = miniatures.command(name, COMPOSITIONS[name], "runs")
    with chdir(folder), double():
        work(runs_of(words)[0][0], Console(file=io.StringIO()))
    (metrics,) = (folder / miniatures.place("runs", name)).glob("*/metrics.jsonl")
    found: Losses = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        for key, value in json.loads(line).items():
            if not key.endswith(("step", "_s")):
                found.setdefault(key, []).append(value)
    return found


def kept() -> Mapping[str, Losses]:
    """Return what the file says, by the name of the miniature."""
    found: dict[str, Losses] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Write the file anew, a line for each miniature and metric."""
    with TemporaryDirectory() as folder:
        miniatures.prepare(Path(folder))
        found = {name: losses(Path(folder), name) for name in COMPOSITIONS}
    blocks = []
    for name, metrics in found.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(each)}" for key, each in metrics.items()]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
