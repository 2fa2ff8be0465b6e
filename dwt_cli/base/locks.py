"""Lock files, which the operating system frees when their holder dies.

The file names its holder, for those who find it taken.
"""

import contextlib
import os
import socket
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout


class Held(Exception):
    """Another process holds the lock. The message names it: process and host."""


def take(path: Path, timeout_s: float = 0.5) -> AcquireReturnProxy[FileLock]:
    """Take the lock at ``path``, until the context ends; raises `Held` when another process has it.

    timeout_s: the time to wait for it, longer than `is_held` holds a lock; below 0: any time.
    """
    try:
        taken = FileLock(path).acquire(timeout=timeout_s, poll_interval=0.05)
    except Timeout as busy:
        holder = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            holder = path.read_text(encoding="utf-8").strip()
        raise Held(holder or "another process") from busy
    with contextlib.suppress(OSError):  # a full disk does not hinder a lock
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return taken


def is_held(path: Path) -> bool:
    """Return whether a living process has the lock; creates nothing, holds it for an instant."""
    if not path.is_file():
        return False
    try:
        FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    except OSError:  # somebody else's folder: its status file has to do
        pass
    return False
