"""The measures by name, and how they are carried out: piece by piece, none of them twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError, not_among
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate import blimp, glue, lm, probing
from dwt_cli.evaluate.cached import Found, Piece, cached_scores
from dwt_cli.evaluate.options import Eval
from dwt_cli.evaluate.score import EvaluatedModel, Say, Score
from dwt_cli.tasks.batches import HeldoutBatches


@dataclass(frozen=True)
class Measurement:
    """A model, what is to be measured of it, and what a measure may need besides.

    text: makes the corpus in the model's own tokens, with what identifies it, and the held-out
    batches of it. advance: called with how far which measure is.
    """

    tested: EvaluatedModel
    options: Eval
    text: Callable[[], tuple[Corpus, str, HeldoutBatches]]
    say: Say
    advance: Callable[[str, float, str], None]


@dataclass(frozen=True)
class Measure:
    """pieces: what is computed. summed_up: from the pieces' scores to what is reported.

    needs_head: whether the model's language-model head is used. check: raises `UserError` for what
    can be known to be wrong before any work.
    """

    pieces: Callable[[Measurement], Iterable[Piece]]
    needs_head: bool = True
    summed_up: Callable[[Sequence[Sequence[Score]]], list[Score]] = lambda found: [
        score for scores in found for score in scores
    ]
    check: Callable[[Eval], None] = lambda options: None


def _lm(asked: Measurement) -> Iterator[Piece]:
    _, corpus_id, heldout = asked.text()
    yield Piece(
        "held-out text",
        lambda: ("lm", corpus_id, heldout.num_targets),
        lambda folder: Found(lm.scores(asked.tested, heldout), {}),
    )


def _glue(asked: Measurement) -> Iterable[Piece]:
    def advance(share: float, text: str) -> None:
        asked.advance("glue", share, text)

    return glue.pieces(asked.tested, asked.options.glue, asked.say, advance)


def _blimp(asked: Measurement) -> Iterator[Piece]:
    options = asked.options.blimp
    yield Piece(
        "minimal pairs",
        lambda: ("blimp", blimp.provenance(options), options.num_pairs),
        lambda folder: Found(blimp.scores(asked.tested, options, asked.say), {}),
    )


def _probing(asked: Measurement) -> Iterator[Piece]:
    corpus, corpus_id, _ = asked.text()
    options = asked.options.probing
    yield Piece(
        "probing",
        lambda: ("probing", corpus_id, options),
        lambda folder: Found(probing.scores(asked.tested, corpus, options, asked.say), {}),
    )


MEASURES = {
    "lm": Measure(_lm),
    "probing": Measure(_probing, needs_head=False),
    "blimp": Measure(_blimp, check=lambda options: blimp.check(options.blimp)),
    "glue": Measure(
        _glue,
        needs_head=False,
        summed_up=glue.summed_up,
        check=lambda options: glue.check(options.glue),
    ),
}


@dataclass
class Results:
    """Scores of each measure, and the lines for what could not be measured."""

    scores: dict[str, list[Score]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(options: Eval) -> None:
    """Raise `UserError` with the first problem that can be known before any work."""
    for name in options.measures:
        if name not in MEASURES:
            raise UserError(not_among(f"eval.measures=[{name}]", "measure", name, list(MEASURES)))
    for name in options.measures:
        MEASURES[name].check(options)


def carry_out(asked: Measurement, cache: Cache, has_head: bool) -> Results:
    """Carry out all measures of the options; one that fails by a mistake does not stop the rest."""
    results = Results()
    for name in asked.options.measures:
        measure = MEASURES[name]
        if measure.needs_head and not has_head:
            results.problems.append(
                f"{name}: the model has no language-model head; choose eval=glue"
            )
            continue
        found = list(_found(measure, asked, cache, results.problems))
        results.scores[name] = measure.summed_up(found)
    results.problems = list(dict.fromkeys(results.problems))
    return results


def _found(
    measure: Measure, asked: Measurement, cache: Cache, problems: list[str]
) -> Iterator[list[Score]]:
    try:
        for piece in measure.pieces(asked):
            try:
                found = cached_scores(piece, asked.tested, cache)
            except UserError as error:
                problems.append(str(error))
                continue
            asked.say(_line(piece, found))
            yield found.scores
    except UserError as error:  # before the first piece
        problems.append(str(error))


def _line(piece: Piece, found: Found) -> str:
    words = [f"{score.task} {score.metric} {score.value:.4f}" for score in found.scores]
    if "padding" in found.facts:
        words.append(f"padding {found.facts['padding']:.1%}")
    return f"{piece.name}: {', '.join(words)}, {found.facts['seconds']:.1f} s"
