"""Words of a run that trains in seconds, and its text, made here."""

import random
from pathlib import Path

from tests.processes import dwt_train as dwt_train

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
