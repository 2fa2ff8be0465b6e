"""How a setting is marked, and the options that several rooms share. Imports no torch."""

from dataclasses import field
from enum import Enum
from typing import Any


def bookkeeping(default: Any) -> Any:
    """A field that says where, how fast or under what label; never what comes out."""
    return field(default=default, metadata={"identity": False})


class Precision(Enum):
    """auto: bf16 where the hardware multiplies it natively, else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    """auto: the first CUDA device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
