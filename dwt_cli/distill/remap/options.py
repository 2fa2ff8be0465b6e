"""The options of the student's start. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from dwt_cli.base.options import above, added, at_least
from dwt_cli.distill.remap import depth, width

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from dwt_cli.data.surfaces import Surfaces
    from dwt_cli.distill.remap.remap import Account
    from dwt_cli.distill.remap.vocabulary import Transfer

    Pair = tuple[Surfaces, Surfaces]


class Vocabulary(Enum):
    """Start of a student's tokens where its tokenizer may be another than its teacher's.

    shared: the two have one. transfer: a token of the teacher's is copied, any other is the mean of
    its pieces in the teacher's tokenizer. fresh: embeddings and head are left as they were made.
    """

    shared = "shared"
    transfer = "transfer"
    fresh = "fresh"

    def left_out(self, rows: set[str]) -> set[str]:
        """Return which of the tensors with a row for each token are not taken over."""
        return rows if self is Vocabulary.fresh else set()


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

    @property
    def shares_rows(self) -> bool:
        """True where a row of the student's vocabulary starts as the same one of its teacher's."""
        return False

    def tokens(self, num_rows: int, between: Pair | None = None) -> Transfer | None:
        """Return how ``num_rows`` rows of another vocabulary are made; None: they are not.

        between: the tokenizers; None: shapes are enough.
        """
        return None

    def start(
        self, student: PreTrainedModel, teacher: PreTrainedModel, tokens: Transfer | None = None
    ) -> Account:
        """Write the teacher's weights into the student; return where each tensor is from.

        tokens: how the rows of another vocabulary are made. Of learned maps, what they begin as. On
        the meta device shapes alone are compared. Raises `UserError` where the teacher does not
        fit.
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
    vocabulary: Vocabulary = added(Vocabulary.shared)

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
        from dwt_cli.distill.remap.adopt import adopt

        adopt(student, teacher, self)

    @property
    def shares_rows(self) -> bool:
        return self.vocabulary is Vocabulary.shared

    def tokens(self, num_rows: int, between: Pair | None = None) -> Transfer | None:
        from dwt_cli.distill.remap.vocabulary import Transfer, transfer

        if self.vocabulary is not Vocabulary.transfer:
            return None
        return transfer(*between, num_rows) if between else Transfer.of_shapes(num_rows)

    def start(
        self, student: PreTrainedModel, teacher: PreTrainedModel, tokens: Transfer | None = None
    ) -> Account:
        from dwt_cli.distill.remap.remap import remap

        return remap(student, teacher, self, tokens)


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
        if self.vocabulary is Vocabulary.fresh:
            yield (
                f"{setting}.vocabulary=fresh: maps are learned through the teacher's embeddings; "
                f"set {setting}.vocabulary=transfer"
            )
