"""The measures by name; one that fails by a mistake does not stop the others."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError, not_among
from dwt_cli.evaluate import blimp, glue, harness, lm, probing, zero_shot
from dwt_cli.evaluate.measurement import Found, Measurement, Results, Score
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.options import Head, Predicts


class Measure(NamedTuple):
    """needs_head: whether the model's language-model head is used.

    is_causal: whether only causal models have it. check: raises `UserError` for what can be known
    to be wrong with its options before any work.
    """

    scores: Callable[[Measurement], list[Score]]
    needs_head: bool = True
    is_causal: bool = False
    check: Callable[[Any], object] = lambda options: None


def _lm(asked: Measurement) -> list[Score]:
    corpus, corpus_id, heldout = asked.text()

    def found(folder: Path) -> Found:
        scores = lm.scores(asked.tested, heldout)
        if asked.tested.task.head is Head.causal:
            scores.append(lm.copying(asked.tested, corpus.heldout.block_length))
        return scores, {}

    identity = ("lm", corpus_id, heldout.num_targets, "with calibration and copying")
    return asked.kept("held-out text", identity, found)


def _blimp(asked: Measurement) -> list[Score]:
    options = asked.options.blimp
    return asked.kept(
        "minimal pairs",
        ("blimp", blimp.provenance(options), options.num_pairs),
        lambda folder: (blimp.scores(asked.tested, options, asked.say), {}),
    )


def _probing(asked: Measurement) -> list[Score]:
    corpus, corpus_id, _ = asked.text()
    options = asked.options.probing
    return asked.kept(
        "probing",
        ("probing", corpus_id, options),
        lambda folder: (probing.scores(asked.tested, corpus, options, asked.say), {}),
    )


def _zero_shot(name: str, asked: Measurement) -> list[Score]:
    options = getattr(asked.options, name)
    return asked.kept(
        name,
        (name, file_sum(Path(options.path).expanduser()), options.num_items),
        lambda folder: (zero_shot.scores(asked.tested, name, options), {}),
    )


MEASURES = {
    "lm": Measure(_lm),
    "probing": Measure(_probing, needs_head=False),
    "blimp": Measure(_blimp, check=blimp.check),
    **{
        name: Measure(
            partial(_zero_shot, name), is_causal=True, check=partial(zero_shot.read, name)
        )
        for name in zero_shot.SETS
    },
    "harness": Measure(
        lambda asked: harness.scores(asked.tested, asked.options.harness),
        is_causal=True,
        check=harness.check,
    ),
    "glue": Measure(glue.scores, needs_head=False, check=glue.check),
}


def check(options: Eval, head: Predicts) -> None:
    """Raise `UserError` with the first problem that can be known before any work."""
    for name in options.measures:
        if name not in MEASURES:
            raise UserError(not_among(f"eval.measures=[{name}]", "measure", name, list(MEASURES)))
        if MEASURES[name].is_causal and head is not Head.causal:
            raise UserError(
                f"eval.measures=[{name}]: a masked model gives no likelihood of what follows a "
                "text; choose task=clm, or leave it out"
            )
    for name in options.measures:
        MEASURES[name].check(getattr(options, name, None))


def carry_out(asked: Measurement, has_head: bool) -> Results:
    """Return the scores of all measures of the options, and the lines for what failed."""
    scores = {}
    for name in asked.options.measures:
        measure = MEASURES[name]
        try:
            if measure.needs_head and not has_head:
                raise UserError(f"{name}: the model has no language-model head; choose eval=glue")
            scores[name] = measure.scores(asked)
        except UserError as error:
            asked.problems.append(str(error))
    return Results(scores, list(dict.fromkeys(asked.problems)))
