"""Temporary folders, which are removed even if their process was killed: by the next one."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from tempfile import TemporaryDirectory


def scratch() -> TemporaryDirectory[str]:
    """Return a temporary folder; those that processes left when they were killed are removed."""
    prefix = f"dwt-{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}[0-9]*-*"):
        try:
            os.kill(int(left.name.removeprefix(prefix).partition("-")[0]), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:  # somebody else's, at work
            continue
    return TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")
