"""A process that is handed a packed run: its last line and its exit code."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dwt_cli.config import packing
from dwt_cli.config.run import Run

SCRIPT = """
import sys
from pathlib import Path

from dwt_cli.base.errors import Reported, UserError
from dwt_cli.base.interrupt import Interrupted
from dwt_cli.launch import dispatch, process


def start(run):
    raise {error}


dispatch.start = start
process.main("job", Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("error", "code", "last_line"),
    [
        ("UserError('seed=x: choose a number')", 2, "dwt-train: seed=x: choose a number"),
        ("Reported(2)", 2, ""),
        ("RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        ("Interrupted(step=3, number=15)", 143, "stopped after step 3"),
        ("Interrupted(message='job 7 goes on')", 130, "job 7 goes on"),
    ],
)
def test_how_it_ends(
    composed: Callable[..., Run], tmp_path: Path, error: str, code: int, last_line: str
) -> None:
    (tmp_path / "run.json").write_text(packing.packed(composed()))
    command = [sys.executable, "-c", SCRIPT.format(error=error), str(tmp_path / "run.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert (done.stderr.splitlines() or [""])[-1] == last_line
    assert ("Traceback" in done.stderr) == (code == 1)
