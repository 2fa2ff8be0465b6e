"""How a student starts from its teacher's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwt_cli.base import atomic
from dwt_cli.base.identity import plain
from dwt_cli.recipe import across
from dwt_cli.recipe.stage import Context, Done, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dwt_cli.distill.remap.vocabulary import Transfer
    from dwt_cli.recipe.student import StudentStage
    from dwt_cli.recipe.teacher import Prepared


def remap(stage: StudentStage, student: PreTrainedModel, done: Done, at: Context) -> dict[str, Any]:
    """Start a stage's student from its teacher, in place; return what that cost and is worth.

    losses: held-out, before the student's first step, in nats. Where each tensor comes from goes to
    the run's directory, with a picture.
    """
    from dwt_cli.distill.remap.picture import draw_origins
    from dwt_cli.models.wrapper import LanguageModel

    assert stage.teacher is not None
    evaluate = stage.shapes.conditions.evaluation(done[stage.corpus.name], at)
    teacher: Prepared = done[stage.teacher.name]
    assert teacher.model is not None

    def loss() -> float:
        model = LanguageModel(student, at.machine.dtype)  # evaluated once: not compiled
        return evaluate(model.to(at.machine.device))["loss"]

    losses = {"teacher": teacher.facts.loss} if teacher.facts.heldout else {}
    losses["random"] = loss()
    facts: dict[str, Any] = {"flops": 0, "seconds": 0.0}
    if stage.maps is not None:
        account = stage.maps.apply(student, done, at)
        learned = facts_of(done[stage.maps.name])
        facts = {"flops": learned.flops, "seconds": learned.seconds}
    else:
        account = stage.shapes.remap.start(student, teacher.model, transfer(stage, done))
    losses["remapped"] = loss()
    facts |= {"losses": losses} | ({"tokens": account.tokens} if account.tokens else {})
    if at.ranks.is_first:
        folder = at.folder / stage.folder
        atomic.write_json(folder / "remap.json", plain(vars(account)) | facts)
        ours, theirs = (m.config.num_hidden_layers for m in (student, teacher.model))
        draw_origins(account, ours, theirs, folder / "remap.png")
    return facts


def transfer(stage: StudentStage, done: Done) -> Transfer | None:
    """Return how the student's rows are made of those for its teacher's tokens.

    None: the two have the same, or they are not.
    """
    assert stage.teacher is not None
    theirs, corpus = done[stage.teacher.name].tokens, done[stage.corpus.name]
    if not (theirs or stage.shapes.remap.shares_rows):  # or it knows more tokens
        theirs = across.own_tokens(stage.teacher.options, corpus, also_alike=True)
    if theirs is None:
        return None
    between = (across.tokens_of(corpus), theirs)
    return stage.shapes.remap.tokens(stage.corpus.data.vocab_size, between)
