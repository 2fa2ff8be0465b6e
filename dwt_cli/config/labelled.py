"""Rules about labelled texts, by the settings alone: what has no meaning, or is not known there."""

from collections.abc import Callable, Iterator

from dwt_cli.config.run import Run
from dwt_cli.data.options import OWN
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.divergences import SquaredError
from dwt_cli.distill.objective.features import over_features
from dwt_cli.distill.objective.revise import NoRevision
from dwt_cli.distill.objective.select import AllRows
from dwt_cli.distill.remap.options import RandomStart
from dwt_cli.distill.teacher.several import Reward
from dwt_cli.training.options import Ddp

IDLE = {
    *("data.heldout_fraction", "data.max_heldout_blocks", "data.max_gb", "data.path"),
    *("data.packages", "data.text_column", "data.tokenizer_kind", "task.tokenizer", "task.family"),
    *("eval.num_blocks", "eval.mask_ratio"),
}
"""Settings of text in blocks, and of models that are made here."""


def _of_numbers(run: Run, chosen: Callable[[str], str]) -> Iterator[str]:
    """Yield what cannot be where labels are numbers, as the teacher's answer is."""
    labels = "whose labels are numbers"
    if not any(True for _ in run.teacher.each()):
        return
    if not run.teacher.is_model:
        yield (
            f"{chosen('teacher')}, {labels}: one model's number is learned from; choose "
            "teacher=checkpoint or none"
        )
    for name, each in divergences(run.objective).items():
        if not isinstance(each, SquaredError):
            yield (
                f"objective={name} with {chosen('task')}, {labels}: there is no distribution; "
                "choose objective=mse"
            )
        elif not each.is_plain:
            yield f"objective.{name}.temperature with {labels}: a number has none; leave it out"
    for setting, teacher in run.teacher.each():
        if getattr(teacher, "temperature", 1.0) != 1:
            yield f"{setting}.temperature with {labels}: a number has none; leave it out"
    for group, nothing in (("revise", NoRevision()), ("select", AllRows())):
        if getattr(run, group) != nothing:
            yield f"{chosen(group)}, {labels}: it is about classes; leave it out"


def problems(run: Run) -> Iterator[str]:
    """Yield what cannot be with a classifier, one line each."""
    task = f"task={run.choices.get('task', '')}"

    def chosen(group: str) -> str:
        return f"{group}={run.choices.get(group, '')} with {task}"

    if run.evaluation:
        yield f"{task}: dwt-eval measures language models; the run's own summary has its metrics"
    if not any(True for _ in run.student.checkpoints()):
        yield (
            f"{chosen('student')}: a classifier starts from a model that exists; set "
            "student=checkpoint student.path=DIR"
        )
    for setting, teacher in run.teacher.each():
        if teacher.made or teacher.is_student:
            yield (
                f"{chosen('teacher')}: what is made here does not know the task; set teacher=none, "
                "or teacher=checkpoint teacher.path=DIR, a model that was fine-tuned on it"
            )
        if teacher.learns:
            yield f"{setting}.online with {task}: a classifier's head is not known; set it to none"
    several, of_blocks = run.teacher.combined, (Reward.probe, Reward.shuffled)
    if several and several.chooses and several.reward in of_blocks:
        yield (
            f"teacher.reward={several.reward.name} with {task}: it is about blocks of many "
            "targets; choose gain, hard or both"
        )
    if run.data.tokenizer == OWN:
        yield f"data.tokenizer=own with {task}: the texts are in the student's tokens; leave it out"
    if run.remap != RandomStart():
        yield f"{chosen('remap')}: the student has its own weights; choose remap=random"
    if run.signal.cached:
        yield f"{chosen('signal')}: signals of blocks are kept; choose signal=online"
    if run.explore.writes:
        yield f"{chosen('explore')}: a teacher writes tokens, no labels; choose explore=none"
    if run.order.chosen:
        yield f"{chosen('order')}: it is of blocks; choose order=all"
    if run.alpha.crossing:
        yield f"{chosen('alpha')}: its curve is one of pre-training; choose another alpha"
    if run.task.labelled and run.task.labelled.is_regression:
        yield from _of_numbers(run, chosen)
    features = over_features(run.objective).items()
    if unfit := [*over_chunks(run.objective), *(name for name, of in features if not of.of_texts)]:
        yield (
            f"objective={'+'.join(unfit)} with {task}: classes are compared, and features of "
            "layers; choose logits, mse, reverse_kl or jensen_shannon, hidden, attention, "
            "minilm or minilmv2"
        )
    if run.train.compile:
        yield (
            f"train.compile={run.train.compile} with {task}: texts have too many lengths to be "
            "compiled for; set train.compile=false"
        )
    if run.train.profile:
        yield f"train.profile=true with {task}: it is about blocks; leave it out"
    if run.parallel != Ddp():
        yield f"{chosen('parallel')}: such a model is not sharded here; choose parallel=ddp"
    if run.eval.measures != ["lm"]:
        yield f"{chosen('eval')}: it measures language models; choose eval=lm"
    elif not run.eval.is_plain:
        at = ",".join(f"{share:g}" for share in run.eval.at)
        yield f"eval.at=[{at}] with {task}: only the end is measured; leave it out"
