"""Rules about a cached signal and its neighbours, by the settings alone."""

from collections.abc import Iterator, Sequence

from dwt_cli.config.run import Run
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.divergences import DIVERGENCES, TopK
from dwt_cli.distill.objective.revise import NoRevision
from dwt_cli.distill.objective.select import Uncertain
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.distill.teacher.several import Weighting
from dwt_cli.models.options import Head
from dwt_cli.training.options import NonFinite
from dwt_cli.training.protocols import Moment

LEAST_HARD = 0.3
"""The least share of the hard loss beside biased rows, with which they come close to whole ones."""

_MOMENTS = 100


def problems(run: Run) -> Iterator[str]:
    """Yield what cannot be together, one line each: setting, value, remedy."""
    cached, teachers = run.signal.cached, [teacher for _, teacher in run.teacher.each()]
    yield from _imported(run, teachers)
    if cached is None or not teachers or run.alpha.soft_is_over(Moment(0.0)):
        return
    named, online = f"signal={run.choices.get('signal', '')}", "or signal=online"
    if not any(teacher.is_model or teacher.is_elsewhere for teacher in teachers):
        yield (
            f"{named} with teacher={run.choices.get('teacher', '')}: there is no model to be asked "
            f"once; choose another teacher, {online}"
        )
    if run.explore.writes:
        yield (
            f"{named} with explore={run.choices.get('explore', '')}: what a teacher writes is not "
            f"cached; choose explore=none, {online}"
        )
    if run.train.non_finite is NonFinite.rollback:
        yield (
            f"{named} with train.non_finite=rollback: the text that follows is not cached; set "
            f"train.non_finite=skip, {online}"
        )
    if any(teacher.learns for teacher in teachers):
        yield (
            f"{named} with teacher.online: a teacher that learns answers otherwise in each step; "
            f"set teacher.online=none, {online}"
        )
    weighting = run.teacher.combined.weighting if run.teacher.combined else Weighting.fixed
    if weighting is not Weighting.fixed:
        yield (
            f"{named} with teacher.weighting={weighting.name}: what is cached follows from the "
            f"text alone; set teacher.weighting=fixed, {online}"
        )
    compared = divergences(run.objective)
    if others := [name for name in run.objective if name not in compared]:
        yield (
            f"{named} with objective={'+'.join(others)}: features and likelihoods of text are not "
            f"cached; compare logits alone, {online}"
        )
    for name, objective in compared.items():
        if type(objective) is not cached.divergence:
            right = next(name for name, kind in DIVERGENCES.items() if kind is cached.divergence)
            right = "logits" if right == "forward_kl" else right
            yield (
                f"{named} with objective={name}: its entries are compared by objective={right}; "
                f"choose that, {online}"
            )
        elif isinstance(objective, TopK) and objective.k > cached.num_entries:
            yield (
                f"objective.{name}.k={objective.k} with signal.num_entries={cached.num_entries}: "
                "so many are not cached; raise signal.num_entries"
            )
        if objective.temperature_end not in (None, objective.temperature):
            yield (
                f"{named} with objective.{name}.temperature_end={objective.temperature_end}: rows "
                f"are cached at one temperature; set it to null, {online}"
            )
    temperatures = {objective.temperature for objective in compared.values()}
    if len(temperatures) > 1:
        yield f"{named}: rows are cached at one temperature, and objectives have {temperatures}"
    if run.revise != NoRevision():
        yield (
            f"{named} with revise={run.choices.get('revise', '')}: whole rows are revised, which "
            f"are not cached; choose revise=none, {online}"
        )
    if isinstance(run.select, Uncertain) and (run.select.entropy is None or temperatures != {1.0}):
        yield (
            f"{named} with select=uncertain: its quantile is of whole rows at temperature 1; set "
            f"select.entropy in nats, {online}"
        )
    if run.train.max_minutes is not None:
        yield (
            f"{named} with train.max_minutes={run.train.max_minutes:g}: what is asked is of a "
            "known number of steps; set train.max_steps or train.epochs, and train.max_minutes=null"
        )
    yield from cached.problems_over("signal", run.data.vocab_size)


def _imported(run: Run, teachers: Sequence[Teacher]) -> Iterator[str]:
    """Yield what rows that a server wrote cannot be together with."""
    imported, teacher = run.signal.imported, f"teacher={run.choices.get('teacher', '')}"
    named = f"signal={run.choices.get('signal', '')}"
    if imported is None or not run.teacher.is_elsewhere:
        if imported and teachers:
            yield f"{named} with {teacher}: its rows are those of another; leave {teacher} out"
        elif any(each.is_elsewhere for each in teachers):
            yield f"{teacher} with {named}: what it says is in files; choose signal=imported alone"
        return
    if run.task.head is not Head.causal or getattr(run.task, "separate_documents", False):
        set_to = "task=clm" if run.task.head is not Head.causal else "task.separate_documents=false"
        yield f"{named}: a server reads a block from left to right, and all of it; set {set_to}"
    if run.run.mode.trains and imported.path is None:
        yield f"{named}: give signal.path=FILES; run.prompts=true writes what to send to a server"
    if run.run.mode.trains and imported.path and imported.tokenizer is None:
        yield (
            f"{named}: whose ids the rows have is not said; set signal.tokenizer to the sum that "
            "run.prompts=true prints, with data.tokenizer=the server's"
        )
    if {objective.temperature for objective in divergences(run.objective).values()} - {1.0}:
        yield f"{named}: its rows are at temperature 1; leave the objective's temperature out"
    weights = [run.alpha.weights(Moment(n / _MOMENTS)) for n in range(_MOMENTS)]
    scale = sum(objective.weight for objective in run.objective.values())
    hard = [each.hard / (each.hard + scale * each.soft) for each in weights if each.soft]
    if hard and (share := sum(hard) / len(hard)) < LEAST_HARD:
        yield (
            f"{named} with alpha={run.choices.get('alpha', '')}: biased rows need a hard loss of "
            f"at least {LEAST_HARD} of both, as a mean while it teaches, and it is {share:.2f}; "
            "choose alpha=normal, or lower alpha.soft or the objective's weight"
        )
