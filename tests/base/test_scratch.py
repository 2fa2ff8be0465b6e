"""Temporary folders of killed processes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dwt_cli.base.scratch import scratch


def test_what_killed_processes_leave_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os; from dwt_cli.base import scratch as s; a = s.scratch(); os.abort()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    (left,) = tmp_path.iterdir()
    (tmp_path / "dwt-somebody-else").mkdir()
    with scratch() as ours, scratch():
        assert not left.exists()
        assert Path(ours).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["dwt-somebody-else"]
