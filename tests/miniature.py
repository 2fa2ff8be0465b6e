"""The real command at a size that trains in seconds, on text made here."""

import os
import random
import subprocess
import sys
from pathlib import Path

SCALE = [
    "scale.width=16",
    "scale.num_heads=2",
    "scale.mlp_width=16",
    "scale.vocab_size=200",
    "scale.block_length=16",
    "scale.batch_size=8",
    "scale.max_steps=6",
    "scale.teacher_steps=4",
    "scale.eval_every=3",
    "tracker=none",
    "launch.num_threads=1",
]


def write_text(folder: Path, num_documents: int = 60) -> Path:
    """Documents of random sentences, one file each; the same ones every time."""
    draw = random.Random(0)
    words = [f"{a}{b}" for a in "bdfglmnprst" for b in ("ark", "elin", "ossa", "um", "ive")]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_documents):
        lines = [" ".join(draw.choices(words, k=draw.randint(9, 14))) + "." for _ in range(8)]
        (folder / f"{number:03d}.txt").write_text("\n\n".join(lines) + "\n")
    return folder


def dwt_train(
    *arguments: str, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the front door as a person would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dwt_cli.cli", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", **environment},
    )


def options(folder: Path) -> list[str]:
    """A miniature run below ``folder``, on the text of `write_text`."""
    return [
        *SCALE,
        "data=files",
        f"data.path={folder}/text",
        "data.heldout_fraction=0.2",
        f"run.root={folder}/runs",
        f"run.cache={folder}/cache",
    ]
