"""The options of the tasks."""

from dataclasses import dataclass


@dataclass
class Task:
    """Masked language modelling: BERT's 80/10/10 on a fixed number of positions per block."""

    mask_ratio: float = 0.15
    keep_ratio: float = 0.1
    random_ratio: float = 0.1
