"""A teacher with another tokenizer than the text's, and how much of the text it can speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dwt_cli.base.errors import UserError
from dwt_cli.data.tokenizer import numbered_otherwise
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.options import located

if TYPE_CHECKING:
    from dwt_cli.data.corpus import Corpus
    from dwt_cli.data.surfaces import Surfaces
    from dwt_cli.distill.teacher.across import SpanSignal
    from dwt_cli.tasks.batches import HeldoutBatches


def own_tokens(options: Teacher, corpus: Corpus, also_alike: bool = False) -> Surfaces | None:
    """Return the tokens of a teacher's tokenizer; None: it is the text's, or it has none.

    also_alike: even if the text's are its first ones, with the same numbers.
    """
    from dwt_cli.data.corpus import open_tokenizer
    from dwt_cli.data.surfaces import Surfaces

    for setting, checkpoint in options.checkpoints():
        try:
            theirs = open_tokenizer(located(setting, checkpoint.path), ())
        except UserError:  # it is taken to be the text's
            continue
        ours = corpus.tokenizer.get_vocab()
        if also_alike or numbered_otherwise(ours, theirs.get_vocab()):
            return Surfaces(theirs, f"{setting}={checkpoint.path}")
    return None


def tokens_of(corpus: Corpus) -> Surfaces:
    """Return what the tokens of a text stand for."""
    from dwt_cli.data.surfaces import Surfaces

    return Surfaces(corpus.tokenizer, "data.tokenizer")


class Alignment(NamedTuple):
    """A teacher's reading of held-out text in its own tokens.

    aligned: how many of the text's tokens end where one of its own does, in 0..1. read: its tokens,
    by token of the text. unknown: how many of the chunks between have a token that stands for what
    it cannot read, in 0..1. beyond: how many of the text's tokens are after as much of a block as
    it reads, in 0..1.
    """

    aligned: float
    read: float
    unknown: float
    beyond: float

    def __str__(self) -> str:
        said = f"reads other tokens: {self.aligned:.1%} of the text's end with one of its own"
        if self.beyond:
            said += (
                f"; {self.beyond:.1%} are after what it reads of a block, of which it has no "
                "windows: they are not taught"
            )
        return said


def alignment(answering: SpanSignal, heldout: HeldoutBatches) -> Alignment:
    """Return how a teacher with other tokens reads the held-out blocks."""
    counts = [(*answering.counted(batch), batch.ids_BL.numel()) for batch in heldout]
    ends, read, chunks, unknown, beyond, positions = map(sum, zip(*counts, strict=True))
    shares = (ends / positions, read / positions, unknown / max(1, chunks))
    return Alignment(*shares, beyond / positions)
