"""A teacher with another tokenizer than the text's, and how much of the text it can speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def share(answering: SpanSignal, heldout: HeldoutBatches) -> float:
    """Return how many of the held-out tokens end where one of the teacher's does, in 0..1."""
    ends = positions = 0
    for batch in heldout:
        ends += sum(len(reading.ours_A) for reading in answering.read(batch))
        positions += batch.ids_BL.numel()
    return ends / positions
