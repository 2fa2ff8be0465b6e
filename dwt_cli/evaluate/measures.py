"""The measures by name, and how they are carried out: piece by piece, none of them twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError, not_among
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate import blimp, glue, lm, probing
from dwt_cli.evaluate.cached import Found, Piece, looked_up
from dwt_cli.evaluate.options import Eval
from dwt_cli.evaluate.score import Say, Score, Subject
from dwt_cli.tasks.batches import HeldoutBatches


@dataclass(frozen=True)
class Looking:
    """A subject, what is asked of it, and what a measure may need besides.

    text: makes the corpus in the subject's own tokens, with what identifies it, and the held-out
    batches of it. advance: told how far which measure has come.
    """

    subject: Subject
    options: Eval
    text: Callable[[], tuple[Corpus, str, HeldoutBatches]]
    say: Say
    advance: Callable[[str, float, str], None]


@dataclass(frozen=True)
class Measure:
    """pieces: what is computed. summed_up: from the pieces' scores to what is reported.

    needs_head: whether the model's language-model head is used.
    """

    pieces: Callable[[Looking], Iterable[Piece]]
    needs_head: bool = True
    summed_up: Callable[[Sequence[Sequence[Score]]], list[Score]] = lambda found: [
        score for scores in found for score in scores
    ]


def _lm(looking: Looking) -> Iterator[Piece]:
    _, corpus_id, heldout = looking.text()
    yield Piece(
        "held-out text",
        lambda: ("lm", corpus_id, heldout.num_targets),
        lambda folder: Found(lm.scores(looking.subject, heldout), {}),
    )


def _glue(looking: Looking) -> Iterable[Piece]:
    def advance(share: float, text: str) -> None:
        looking.advance("glue", share, text)

    return glue.pieces(looking.subject, looking.options.glue, looking.say, advance)


def _blimp(looking: Looking) -> Iterator[Piece]:
    options = looking.options.blimp
    yield Piece(
        "minimal pairs",
        lambda: ("blimp", blimp.provenance(options), options.num_pairs),
        lambda folder: Found(blimp.scores(looking.subject, options, looking.say), {}),
    )


def _probing(looking: Looking) -> Iterator[Piece]:
    corpus, corpus_id, _ = looking.text()
    options = looking.options.probing
    yield Piece(
        "probing",
        lambda: ("probing", corpus_id, options),
        lambda folder: Found(probing.scores(looking.subject, corpus, options, looking.say), {}),
    )


MEASURES = {
    "lm": Measure(_lm),
    "probing": Measure(_probing, needs_head=False),
    "blimp": Measure(_blimp),
    "glue": Measure(_glue, needs_head=False, summed_up=glue.summed_up),
}


@dataclass
class Results:
    """Scores of each measure, and the lines for what could not be measured."""

    scores: dict[str, list[Score]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(options: Eval) -> None:
    """What can be known to go wrong before any work; `UserError` with the first problem."""
    for name in options.measures:
        if name not in MEASURES:
            raise UserError(not_among(f"eval.measures=[{name}]", "measure", name, list(MEASURES)))
    if "glue" in options.measures:
        glue.check(options.glue)
    if "blimp" in options.measures:
        blimp.check(options.blimp)


def carry_out(looking: Looking, cache: Cache, has_head: bool) -> Results:
    """All measures that the options name. What fails by a user's mistake does not stop the rest."""
    results = Results()
    for name in looking.options.measures:
        measure = MEASURES[name]
        if measure.needs_head and not has_head:
            results.problems.append(
                f"{name}: the model has no language-model head; choose eval=glue"
            )
            continue
        found = list(_found(measure, looking, cache, results.problems))
        results.scores[name] = measure.summed_up(found)
    results.problems = list(dict.fromkeys(results.problems))
    return results


def _found(
    measure: Measure, looking: Looking, cache: Cache, problems: list[str]
) -> Iterator[list[Score]]:
    try:
        for piece in measure.pieces(looking):
            try:
                found = looked_up(piece, looking.subject, cache)
            except UserError as error:
                problems.append(str(error))
                continue
            looking.say(_line(piece, found))
            yield found.scores
    except UserError as error:  # before the first piece
        problems.append(str(error))


def _line(piece: Piece, found: Found) -> str:
    said = [f"{score.task} {score.metric} {score.value:.4f}" for score in found.scores]
    if "padding" in found.facts:
        said.append(f"padding {found.facts['padding']:.1%}")
    return f"{piece.name}: {', '.join(said)}, {found.facts['seconds']:.1f} s"
