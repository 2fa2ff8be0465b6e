"""The problem that all sides are given, and how each takes its steps when it is asked to.

A side is a module that is run as a process of its own, `python -m rivals.NAME FOLDER`, with no part
of the project in it. The folder has the initial student and the teacher in the hub's format, the
batches of all steps in order, and the settings. Legend: S steps, B blocks, L positions.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

Inputs = dict[str, Tensor]
IGNORED = -100
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCHES = "batches.safetensors"


@dataclass(frozen=True)
class Problem:
    """Cross-entropy plus KL(teacher || student), each a mean over targets; AdamW at one rate.

    causal: the label of a position is to be predicted at the position before it.
    """

    causal: bool
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    temperature: float

    def write(
        self, folder: Path, student: PreTrainedModel, teacher: PreTrainedModel, batches: Inputs
    ) -> None:
        """Write the folder that sides are given. batches: ``input_ids``, ``labels`` (S, B, L)."""
        student.save_pretrained(folder / "student")
        teacher.save_pretrained(folder / "teacher")
        save_file(batches, folder / BATCHES)
        (folder / "problem.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Given:
    """A side's folder."""

    folder: Path

    @classmethod
    def here(cls) -> "Given":
        """The folder that the command line names."""
        return cls(Path(sys.argv[1]))

    @cached_property
    def problem(self) -> Problem:
        return Problem(**json.loads((self.folder / "problem.json").read_text(encoding="utf-8")))

    def models(self, **settings: Any) -> tuple[nn.Module, nn.Module]:
        """Student and teacher in fp32 on `DEVICE`, in their modes. settings: of the library."""
        auto: Any = AutoModelForCausalLM if self.problem.causal else AutoModelForMaskedLM
        student, teacher = (
            auto.from_pretrained(self.folder / name, dtype=torch.float32, **settings).to(DEVICE)
            for name in ("student", "teacher")
        )
        return student.train(), teacher.eval()

    def batches(self, device: torch.device = DEVICE) -> Iterator[Inputs]:
        """The batches in order: ids, labels with -100 where nothing is predicted, no padding."""
        steps = load_file(self.folder / BATCHES)
        for ids_BL, labels_BL in zip(steps["input_ids"], steps["labels"], strict=True):
            mask_BL = torch.ones_like(ids_BL)
            batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL}
            yield {name: rows.to(device) for name, rows in batch.items()}

    def samples(self) -> tuple[list[Inputs], int]:
        """The same block by block, for a loader without shuffling, and the size of a batch."""
        batches = list(self.batches(torch.device("cpu")))
        size = len(batches[0]["input_ids"])
        return [
            {name: rows[number] for name, rows in batch.items()}
            for batch in batches
            for number in range(size)
        ], size


class Turnstile:
    """Lets a loop take a step each time it is asked to, and says how long it took.

    What the loop prints goes to stderr: stdout is for answers alone.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = 0.0

    def wait(self) -> None:
        """Wait before the first step; the process ends when nobody asks any more."""
        if not sys.stdin.readline():
            os._exit(0)
        self._started = time.perf_counter()

    def passed(self, hard_loss: Tensor | float) -> None:
        """Answer that a step is over, with the cross-entropy of its batch; wait for the next."""
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        print(json.dumps([seconds, float(hard_loss)]), file=self._answers, flush=True)
        self.wait()
