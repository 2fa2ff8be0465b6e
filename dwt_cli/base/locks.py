"""Lock files, which the operating system frees when their holder dies.

The file names its holder, for those who find it taken.
"""

import contextlib
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

_TIMEOUT_S = 0.5  # longer than `is_held` holds a lock


class Held(Exception):
    """Another process holds the lock. The message names it: process and host."""


def take(path: Path) -> FileLock:
    """Return the lock at ``path``, now; raises `Held` when another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_TIMEOUT_S, poll_interval=0.05)
    except Timeout as busy:
        raise Held(_holder(path)) from busy
    _sign(path)
    return lock


def wait_for(path: Path) -> FileLock:
    """Return the lock at ``path``, as soon as its holder lets go of it."""
    lock = FileLock(path)
    lock.acquire(poll_interval=0.2)
    _sign(path)
    return lock


def is_held(path: Path) -> bool:
    """Return whether a living process has the lock; creates nothing, holds it for an instant."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's folder: its status file has to do
        return False
    lock.release()
    return False


def _sign(path: Path) -> None:
    with contextlib.suppress(OSError):  # a full disk does not hinder a lock
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if holder := path.read_text(encoding="utf-8").strip():
            return holder
    return "another process"
