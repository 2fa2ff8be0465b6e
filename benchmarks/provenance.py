"""Where a figure comes from: the lines that every benchmark prints and writes with its figures.

No host name and no paths: what may be published with a number, and no more.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

_SPEED_SETTINGS = (
    "OMP_NUM_THREADS",
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "DNNL_",
    "ONEDNN_",
    "KMP_",
    "GOMP_",
)


def provenance() -> list[str]:
    """Command, commit, date, machine and versions, a Markdown list item each."""
    facts = {
        "command": f"`{_command()}`",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPU": f"{_cpu_model()}, {_num_cores()} cores, load {_load()}",
        "threads": str(torch.get_num_threads()),
        "bf16": ", ".join(_bf16()) or "not native",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}",
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    settings = [
        f"{name}={_without_paths(value)}"
        for name, value in sorted(os.environ.items())
        if name.startswith(_SPEED_SETTINGS)
    ]
    if settings:
        facts["environment"] = f"`{' '.join(settings)}`"
    return [f"- {name}: {fact}" for name, fact in facts.items()]


def _command() -> str:
    script = Path(sys.argv[0])
    words = ["python", f"{script.resolve().parent.name}/{script.name}", *sys.argv[1:]]
    return _without_paths(shlex.join(words))


def _without_paths(text: str) -> str:
    """Absolute paths become their last part."""
    return re.sub(r"(?<![\w.])/(?:[^\s:='\"/]+/)*(?=[^\s:='\"/])", "", text)


def commit() -> str:
    """Return the commit that is checked out, in short, and whether files differ from it."""
    found = _git("rev-parse", "--short", "HEAD")
    if found is None:
        return "none yet"
    return f"{found}, modified" if _git("status", "--porcelain") else found


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            text=True,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _bf16() -> Iterator[str]:
    """What multiplies bf16 natively here."""
    if torch.cpu._is_amx_tile_supported():
        yield "AMX"
    if torch.cpu._is_avx512_bf16_supported():
        yield "AVX-512 BF16"
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        yield "CUDA"
