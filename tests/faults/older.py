"""What earlier commits have made, in small archives: runs, checkpoints, caches and a study.

    python -m tests.faults.older

A checkout of each commit of `MADE` carries out some `COMMANDS`, with the libraries that are
installed here, on the text of `tests.miniature`. Of runs with a seed of 1 all is then taken away
that comes after the checkpoint of step 3, as if they had been killed there; of a study's the
weights. An archive is ``older/COMMIT.tar.xz`` beside this file; what of it is opened today, and
what is made again, is in `tests.faults.test_older`.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.miniature import SCALE, write_text

PROJECT = Path(__file__).parents[2]
ARCHIVES = Path(__file__).parent / "older"
COMMON = [
    *SCALE,
    *("data=files", "data.path=text", "data.heldout_fraction=0.2", "run.root=runs"),
    *("run.cache=cache", "train.checkpoint_every=3", "student.num_layers=1", "scale.log_every=1"),
]
"""Words of all commands. Folders are beside each other, wherever the archive is unpacked."""

COMMANDS = {
    "finished": "seed=0",
    "killed": "seed=1",
    "cached": "seed=1 signal=top_k objective=top_k signal.num_entries=16",
    "study": "-m seed=3,4 teacher=none,small scale.max_steps=6",
}


MADE = {"6b55cd6": ("finished", "killed", "study"), "3eb48c2": ("cached",)}
"""What is made by which commit: the second one is the first that keeps signals."""


def words_of(name: str) -> list[str]:
    """Return the words of one of `COMMANDS`."""
    return [*COMMON, *shlex.split(COMMANDS[name])]


def kill(run: Path, last: str = "step-00000006") -> None:
    """Take away what a run that was killed before its last checkpoint has not written."""
    for path in (run / "model", run / "checkpoints" / last):
        shutil.rmtree(path)
    (run / "summary.json").unlink()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))


def make(commit: str, archive: Path) -> None:
    """Write the archive of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        code, place = Path(folder, "code"), Path(folder, "place")
        ask = ["git", "-C", str(PROJECT)]
        subprocess.run([*ask, "worktree", "add", "--detach", str(code), commit], check=True)
        try:
            write_text(place / "text")
            environment = os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
            for name in MADE[commit]:
                command = [sys.executable, "-m", "dwt_cli.cli", *words_of(name)]
                subprocess.run(command, cwd=place, env=environment, check=True)
        finally:
            subprocess.run([*ask, "worktree", "remove", "--force", str(code)], check=True)
        for run in (place / "runs").glob("*-seed1-*"):
            kill(run)
        for path in [*place.rglob("*.png"), *place.rglob("*.lock")]:
            if not (path.parent / "manifest.json").exists():
                path.unlink()
        for run in (place / "runs").glob("*-seed[34]-*"):  # a study needs no weights
            shutil.rmtree(run / "model")
            shutil.rmtree(run / "checkpoints")
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:xz") as packed:
            for top in ("runs", "cache"):
                packed.add(place / top, top)


if __name__ == "__main__":
    for made in MADE:
        make(made, ARCHIVES / f"{made}.tar.xz")
