"""Rules about teacher, schedule, objective, rows and text together, by the settings alone."""

import math
from collections.abc import Iterator

from dwt_cli.config.run import Run
from dwt_cli.distill.alpha import Crossover
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.features import over_features
from dwt_cli.distill.objective.itself import SelfFeatures
from dwt_cli.distill.objective.select import Uncertain
from dwt_cli.distill.teacher.options import NoTeacher
from dwt_cli.distill.teacher.several import Weighting
from dwt_cli.models.options import Head
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.training.options import NonFinite


def problems(run: Run, teacher: str) -> Iterator[str]:
    """Yield what cannot be together, one line each. teacher: as it was chosen."""
    yield from _of_teachers(run, teacher)
    yield from _of_objectives(run, teacher)
    yield from _of_written(run, teacher)
    yield from _of_order(run, teacher)


def _of_teachers(run: Run, teacher: str) -> Iterator[str]:
    train, micro, length = run.train, run.train.micro_batch_size, run.train.max_steps or math.inf
    num_ranks, several = run.launch.num_ranks, run.teacher.combined
    is_shared = getattr(run.parallel, "shard_teacher", False)
    if is_shared and any(each.shown for _, each in run.teacher.each()):
        yield (
            "teacher.online=lora with parallel.shard_teacher=true: no gradient goes through a "
            "shared teacher; set parallel.shard_teacher=false, or teacher.online=head"
        )
    if several and run.signal.cached and is_shared:
        yield (
            f"parallel.shard_teacher=true with {teacher} and a cached signal: ranks ask for "
            "different numbers of blocks; set parallel.shard_teacher=false"
        )
    num_patterns = run.task.num_patterns if isinstance(run.task, MaskedLM) else None
    if several and several.weighting is Weighting.reinforced and num_patterns:
        yield (
            f"teacher.weighting=reinforced with task.num_patterns={num_patterns}: its episodes "
            "follow the steps, which patterns do not; set task.num_patterns=null"
        )
    if several and several.weighting is Weighting.batch:
        parts = f"{num_ranks} ranks" if num_ranks > 1 else f"train.micro_batch_size={micro}"
        if num_ranks > 1 or train.num_blocks(1) < train.batch_size:
            yield (
                f"teacher.weighting=batch with {parts}: the weights follow the whole batch; use "
                "teacher.weighting=token, or one rank with train.micro_batch_size=null"
            )
    chooses = several is not None and several.weighting is Weighting.reinforced
    if chooses and train.non_finite is NonFinite.rollback:
        yield (
            "train.non_finite=rollback with teacher.weighting=reinforced: episodes are of so many "
            "steps of text, which would have a gap; set train.non_finite=skip"
        )
    if several and several.weighting is Weighting.reinforced and several.episode > length:
        yield (
            f"teacher.episode={several.episode} and train.max_steps={length}: no episode would "
            "end; lower it"
        )
    members = [teacher for _, teacher in run.teacher.each()]
    if members and run.alpha.crossing and not all(each.is_model for each in members):
        yield (
            f"alpha=crossover with {teacher}: no model teaches, whose loss a student could reach; "
            "set alpha.until=STEP, or choose another alpha"
        )
    if isinstance(run.select, Uncertain) and members and not any(m.is_model for m in members):
        yield (
            f"select=uncertain with {teacher}: its entropy is the same on every row, or not "
            "known; choose another select"
        )
    if isinstance(run.alpha, Crossover) and members and train.max_minutes is not None:
        yield (
            f"alpha=crossover with train.max_minutes={train.max_minutes:g}: its step is one of a "
            "known number; set train.max_steps or train.epochs, and train.max_minutes=null"
        )


def _of_objectives(run: Run, teacher: str) -> Iterator[str]:
    objectives, on_features = "+".join(run.objective), bool(over_features(run.objective))
    of_itself = [name for name, each in run.objective.items() if isinstance(each, SelfFeatures)]
    is_student, is_alone = run.teacher.is_student, isinstance(run.teacher, NoTeacher)
    if is_student and len(of_itself) < len(run.objective):
        yield (
            f"objective={objectives} with {teacher}: the student has its own features to learn "
            "from and nothing else; set objective=self_features"
        )
    elif of_itself and not (is_student or is_alone):
        yield (
            f"objective={objectives} with {teacher}: it compares the student with itself; set "
            "teacher=self, or another objective"
        )
    if is_student and run.alpha.reacts:
        yield (
            f"alpha={run.choices.get('alpha')} with {teacher}: there is no teacher's loss that it "
            "could follow; choose another alpha"
        )
    if on_features and not (run.teacher.is_model or is_student or is_alone):
        yield (
            f"objective={objectives} with {teacher}: features of one model are compared; choose "
            "another teacher, or compare logits"
        )
    if of_text := over_chunks(run.objective):
        named = f"objective={objectives}"
        if run.task.head is not Head.causal:
            yield (
                f"{named} with task=mlm: {'+'.join(of_text)} compares likelihoods of text, which "
                "masked models have none of; choose objective=hidden, or task=clm"
            )
        if not (run.teacher.is_model or isinstance(run.teacher, NoTeacher)):
            yield f"{named} with {teacher}: one model reads the text; choose another teacher"
        if tokens := divergences(run.objective):
            yield (
                f"{named}: {'+'.join(of_text)} is for a teacher that reads other tokens, and "
                f"{'+'.join(tokens)} compares token by token; choose one of the two"
            )


def _of_written(run: Run, teacher: str) -> Iterator[str]:
    if not (writes := run.explore.writes) or isinstance(run.teacher, NoTeacher):
        return
    explore, num_ranks = f"explore={run.choices.get('explore', '')}", run.launch.num_ranks
    if not run.teacher.is_model:
        yield f"{explore} with {teacher}: one model writes; choose another teacher"
    if not divergences(run.objective):
        compared = "+".join(run.objective)
        yield f"{explore} with objective={compared}: no distribution is compared; add logits"
    if num_patterns := run.task.num_patterns if isinstance(run.task, MaskedLM) else None:
        yield (
            f"{explore} with task.num_patterns={num_patterns}: the same blocks would be written in "
            "each epoch; set task.num_patterns=null"
        )
    size = run.train.num_blocks(num_ranks)
    parts = [range(n, n + size) for n in range(0, run.train.batch_size, size)]
    if num_ranks > 1 and not all(any(map(writes.is_written, part)) for part in parts):
        yield (
            f"explore.share={writes.share:g} on {num_ranks} ranks: of the {size} blocks that a "
            "rank has at once none may be written, and ranks wait for each other; raise it, or "
            "train.micro_batch_size"
        )


def _of_order(run: Run, teacher: str) -> Iterator[str]:
    members = [teacher for _, teacher in run.teacher.each()]
    order, several = f"order={run.choices.get('order', '')}", run.teacher.combined
    is_parted = run.order.chosen or (several and several.num_probe)
    if members and is_parted and run.remap.learned:
        yield (
            f"remap=ligo with {order if run.order.chosen else 'teacher.reward=probe'}: its maps "
            "learn from all of the text, and the student reads a part; choose another remap"
        )
    if not (scored := run.order.scored) or not members:
        return
    named = [(f"{setting}.temperature", each) for setting, each in run.teacher.each()]
    softened = {name: getattr(each, "temperature", 1.0) for name, each in named}
    if several and several.temperatures:
        softened["teacher.temperatures"] = next((t for t in several.temperatures if t != 1), 1.0)
    for setting, temperature in softened.items():
        if temperature != 1:
            yield (
                f"{setting}={temperature:g} with {order}: blocks are scored by likelihoods, which "
                f"are at 1; leave {setting} out, and soften by the objective's temperature"
            )
    if not all(each.is_model for each in members):
        yield (
            f"{order} with {teacher}: no model scores the text; choose another teacher, or "
            "order=random"
        )
    if several and several.weighting is not Weighting.fixed:
        yield (
            f"{order} with teacher.weighting={several.weighting.name}: scores follow from the text "
            "alone; set teacher.weighting=fixed, or order=random"
        )
    yield from scored.problems_with("order", run.teacher)
