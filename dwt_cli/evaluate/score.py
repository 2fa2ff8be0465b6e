"""A model that is evaluated, and the scores that measures return."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dwt_cli.tasks.options import Task


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under test: fp32 weights, its tokenizer and its task, and its fingerprint."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    identity: str
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Score:
    """One number: ``value`` of a metric on a task, in the metric's own unit.

    stderr: its standard error, over seeds where there are ``num_seeds`` of them, else over
    examples. baselines: what it is to be compared with, by name. remarks: what a reader must know.
    is_detail: for the files; the terminal's table does without it.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    num_examples: int
    num_seeds: int = 1
    baselines: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    is_detail: bool = False


Say = Callable[[str], None]
Report = dict[str, Any]
