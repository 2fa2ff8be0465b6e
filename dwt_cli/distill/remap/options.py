"""The options of the student's start."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Remap:
    """How the student starts. By itself: from its random initialisation."""


@dataclass
class FromTeacher(Remap):
    """From the teacher's weights, by a rule of `.depth` and one of `.width`."""

    depth: str = MISSING
    width: str | None = None  # null: the teacher has the student's sizes
    head: bool = True  # false: only the embeddings and the layers


@dataclass
class Ligo(FromTeacher):
    """By maps that are learned on the corpus, and begin as the rules' (arXiv 2303.00980)."""

    steps: int = 100
    lr: float = 3e-3
