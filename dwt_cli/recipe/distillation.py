"""The distillation of a student: the teacher's signal, its comparison, the rows that count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.features import between, parts_for
from dwt_cli.distill.objective.select import AllRows, Select
from dwt_cli.models.options import Head
from dwt_cli.recipe import across
from dwt_cli.recipe.order import probe_for

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from dwt_cli.distill.loss import Distillation
    from dwt_cli.distill.teacher.several import Watch
    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.distill.writing import Writing
    from dwt_cli.recipe.stage import Context, Done
    from dwt_cli.recipe.student import StudentStage


def distillation_of(
    stage: StudentStage, student: PreTrainedModel, done: Done, at: Context
) -> Distillation | None:
    """Return what the student learns of its teacher, which is shared among ranks from here.

    None: it learns alone. done: the artifacts of the stages before it.
    """
    from dwt_cli.distill.loss import Distillation

    if stage.taught_by is None or stage.teacher is None:
        return None
    if stage.cached and (online := done.get(stage.teacher.name)):
        online.signal.release()
    teacher, shapes = done[stage.taught_by.name], stage.shapes
    parts: dict[str, nn.Module] = {}
    objectives = shapes.objectives
    theirs = student if teacher.signal.is_student else teacher.model
    if theirs is not None:
        objectives = between(objectives, student.config, theirs.config)
        parts = parts_for(objectives, student.config, theirs.config)
    select: Select = AllRows()  # without a distribution there is nothing to select for
    if divergences(shapes.objectives) and stage.alpha.soft:
        heldout = shapes.conditions.heldout(done[stage.corpus.name], at.ranks.size)
        select = stage.select.fitted(lambda: teacher.entropies(heldout, at.machine.device))
    teacher.share(shapes.conditions.parallel, at)
    signal = teacher.signal
    if teacher.tokens is None and over_chunks(shapes.objectives):  # each token is a chunk
        tokens, model = across.tokens_of(done[stage.corpus.name]), teacher.signal.model
        assert model is not None, "one model reads the text"
        options, head = stage.teacher.options, stage.corpus.task.head
        signal = options.across(model, tokens, tokens, head)
    compared = (objectives, parts, stage.revise, select, _writing(stage, done))
    return Distillation(signal, stage.schedule(done), *compared, _watch(stage, signal, done, at))


def _watch(stage: StudentStage, signal: TeacherSignal, done: Done, at: Context) -> Watch | None:
    """Return what looks at the student before it answers; None: nobody does."""
    from dwt_cli.evaluate.lm import heldout_metrics
    from dwt_cli.tasks.batches import HeldoutBatches

    mixture, of = stage.shapes.mixture, stage.shapes.conditions
    if mixture is None or not mixture.num_probe:
        return None
    probe, size = probe_for(stage, done), of.train.num_blocks(at.ranks.size)
    targets = of.heldout_task.targets(probe.tokenizer)
    batches = HeldoutBatches(probe.train, targets, len(probe.train), size)

    def accuracy(student: Any) -> float:
        return heldout_metrics(student, batches, at.machine.device, at.ranks)["accuracy"]

    return mixture.watched(signal, accuracy)


def _writing(stage: StudentStage, done: Done) -> Writing | None:
    """Return what the teacher writes; None: the text is as it is."""
    import torch

    from dwt_cli.distill.writing import Writing

    if (writes := stage.explore.writes) is None:
        return None
    of, tokenizer = stage.shapes.conditions, done[stage.corpus.name].tokenizer
    allowed_V = torch.arange(of.data.vocab_size) < len(tokenizer)
    allowed_V[tokenizer.all_special_ids] = False
    ratio = 1.0 if of.task.head is Head.masked else writes.ratio  # all masked tokens
    return Writing(writes, of.task.targets(tokenizer), allowed_V, ratio, stage.seed)
