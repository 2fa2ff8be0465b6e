"""The code of one commit for all runs of a multirun: what is edited meanwhile does not mix in."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError


def go_on(wanted: str, cache: Cache, arguments: Sequence[str]) -> None:
    """Become a process that carries the same command out with the code of a commit.

    wanted: the commit, as git names it; its code is kept in the cache. Interpreter and libraries
    stay. Returns where this is that process; raises `UserError` where there is no such commit.
    """
    here, setting = Path(__file__).parents[2], f"jobs.clone={wanted}"

    if here.resolve().parent == cache.place("code", "-").resolve().parent:
        return

    def git(folder: Path, *words: str) -> str:
        ask = ["git", "--no-optional-locks", "-C", str(folder), *words]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()

    def make(folder: Path) -> None:
        git(folder, "init", "--quiet")
        git(folder, "fetch", "--quiet", "--depth=1", str(here), commit)
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)

    if not (here / ".git").exists():
        raise UserError(f"{setting}: this package is no git checkout; leave jobs.clone out")
    try:
        commit = git(here, "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}")
        place = cache.place("code", commit[:16]).resolve()
        if changed := git(here, "status", "--porcelain").splitlines():
            print(
                f"warning: {setting}: {len(changed)} files have changes that are not committed; "
                f"the runs go without them, by {commit}",
                file=sys.stderr,
            )
        cache.get("code", commit[:16], make, {"options": {"name": commit}})
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or "there is no such commit, or no git").strip()
        line = f"{setting}: {reason.splitlines()[-1]}; name a commit, as HEAD, or leave it out"
        raise UserError(line) from error
    path = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    first = {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}  # before the folder here
    sys.stdout.flush()
    command = [sys.executable, "-m", "dwt_cli.cli", *arguments]
    os.execve(sys.executable, command, os.environ | first)
