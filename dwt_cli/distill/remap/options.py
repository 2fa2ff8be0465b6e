"""The options of the student's start. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from dwt_cli.base.options import above, at_least
from dwt_cli.distill.remap import depth, width

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from dwt_cli.distill.remap.remap import Account


@dataclass
class Remap:
    """How the student starts. needs_teacher: whether from a teacher's weights."""

    needs_teacher: ClassVar[bool] = False

    @property
    def learned(self) -> Ligo | None:
        """The options of maps that are trained first; None: there are none."""
        return None

    def adopt(self, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        """Set in a student's configuration what the teacher's weights need to mean the same."""

    def start(self, student: PreTrainedModel, teacher: PreTrainedModel) -> Account:
        """Write the teacher's weights into the student; return where each tensor is from.

        Of learned maps, what they begin as. On the meta device shapes alone are compared. Raises
        `UserError` where the teacher does not fit.
        """
        raise NotImplementedError


@dataclass
class RandomStart(Remap):
    """The student starts from its random initialisation."""

    tag: ClassVar[str] = "Remap"


@dataclass
class FromTeacher(Remap):
    """The student starts from the teacher's weights, by a rule of `.depth` and one of `.width`.

    Maps that are learned first mix all of the teacher's layers.
    """

    needs_teacher: ClassVar[bool] = True
    depths: ClassVar[tuple[str, ...]] = tuple(depth.RULES)
    widths: ClassVar[tuple[str, ...]] = tuple(width.RULES)

    depth: str = MISSING
    width: str | None = None  # null: the teacher has the student's sizes
    head: bool = True  # false: only the embeddings and the layers

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for each rule that there is not; setting: what the fields' begin with."""
        where = "where LiGO can begin" if self.learned else "known"
        rules = (
            (f"{setting}.depth", self.depth, self.depths),
            (f"{setting}.width", self.width or "null", (*self.widths, "null")),
        )
        for name, rule, known in rules:
            if rule not in known:
                yield f"{name}={rule} is not {where}: use {', '.join(sorted(known))}"

    def adopt(self, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
        from dwt_cli.distill.remap.remap import adopt

        adopt(student, teacher, self)

    def start(self, student: PreTrainedModel, teacher: PreTrainedModel) -> Account:
        from dwt_cli.distill.remap.remap import remap

        return remap(student, teacher, self)


@dataclass
class Ligo(FromTeacher):
    """By maps that are learned on the corpus, and begin as the rules' (arXiv 2303.00980)."""

    depths: ClassVar[tuple[str, ...]] = ("interpolate", "paper", "stack")
    widths: ClassVar[tuple[str, ...]] = ("net2net", "tile")

    steps: int = at_least(1, default=100)
    lr: float = above(0, default=3e-3)

    @property
    def learned(self) -> Ligo:
        return self

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for each rule that maps cannot begin as, and for a head left out."""
        yield from super().problems(setting)
        if not self.head:
            yield f"{setting}.head=false: maps are learned through the head; leave it out"
