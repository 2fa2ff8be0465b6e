"""The machine that a process runs on: device, number type, threads, versions, memory."""

import contextlib
import ctypes
import os
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.options import Device, Precision
from dwt_cli.base.ranks import ALONE, Ranks

_RECORDED = (
    "dwt-cli",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "hydra-core",
    "omegaconf",
    "wandb",
)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_devices(device: Device, num_ranks: int) -> bool:
    """Return whether CUDA devices are used.

    num_ranks: those of this machine that need one each; 0: a single process takes what there is.
    Raises `UserError` where ``device`` or the ranks want more of them than there are.
    """
    if device is Device.cpu:
        return False
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is Device.cuda and not num_devices:
        raise UserError("launch.device=cuda: torch sees no CUDA device; use launch.device=auto")
    if num_ranks > num_devices:
        raise UserError(
            f"launch.gpus={num_ranks}: torch sees {num_devices} CUDA devices here; "
            "lower it, or take processes on the CPU with launch.device=cpu"
        )
    return num_devices > 0


@dataclass(frozen=True)
class Machine:
    """The device, and the type in which matrix products are computed.

    memory_bytes: memory in all, of the CUDA device or for each process on this CPU.
    """

    device: torch.device
    dtype: torch.dtype
    memory_bytes: int = field(default_factory=_physical_memory)

    @classmethod
    def of(
        cls, device: Device, num_threads: int | None, precision: Precision, ranks: Ranks = ALONE
    ) -> "Machine":
        """Return the machine as it is found; sets torch's number of threads.

        Raises `UserError` where ``device`` or the ranks want more CUDA devices than there are.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        elif ranks.local_size > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.local_size))
        use_cuda = has_devices(device, ranks.local_size if ranks.size > 1 else 0)
        place = torch.device("cuda", ranks.local_rank) if use_cuda else torch.device("cpu")
        if use_cuda:
            memory = torch.cuda.get_device_properties(place).total_memory
            multiplies_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            memory = _physical_memory() // ranks.local_size
            multiplies_bf16 = (
                torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            )
            _keep_freed_memory()
        bf16 = precision is Precision.bf16 or (precision is Precision.auto and multiplies_bf16)
        return cls(place, torch.bfloat16 if bf16 else torch.float32, memory)

    @classmethod
    def elsewhere(cls, memory_gb: float, precision: Precision) -> "Machine":
        """Return a CUDA device with bf16 that is not here, to plan for."""
        dtype = torch.float32 if precision is Precision.fp32 else torch.bfloat16
        return cls(torch.device("cuda"), dtype, round(memory_gb * 1e9))

    def describe(self) -> dict[str, Any]:
        """Return facts that may make results differ; no host name, no paths."""
        on_cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_cuda else platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "num_threads": torch.get_num_threads(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "python": platform.python_version(),
            "commit": commit(),
            "versions": {name: version(name) for name in _RECORDED},
        }

    def peak_memory_gb(self) -> float:
        """Return the peak of memory in use, of the CUDA device or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e9 if sys.platform == "darwin" else 1e6)  # bytes there, KiB elsewhere


def commit() -> str:
    """Return the commit of the checkout that this package is in; of a package, its version."""
    folder = Path(__file__).parents[2]
    if (folder / ".git").exists():
        ask = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            answer = subprocess.run(
                [*ask, "--abbrev=40", "--exclude=*"], capture_output=True, text=True, check=True
            )
            return answer.stdout.strip()
    return version("dwt-cli")


def cpu() -> dict[str, str]:
    """Return what code that is compiled for this very CPU depends on: its model, what it can do."""
    said: dict[str, str] = {}
    with contextlib.suppress(OSError):  # Linux alone says it here
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            said[name.strip()] = value.strip()
    can = said.get("flags") or said.get("Features") or ""
    return {"model": said.get("model name") or platform.processor(), "can": fingerprint(can)}


def _keep_freed_memory() -> None:
    """Let glibc keep a step's memory for the next one, instead of having the kernel zero pages.

    At scale=nano a step would otherwise fault in its activations page by page, thousands of times.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((-3, 1 << 30), (-1, (1 << 31) - 1)):  # mmap and trim thresholds
            libc.mallopt(parameter, value)
