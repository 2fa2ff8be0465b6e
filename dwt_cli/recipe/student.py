"""The stage of the student: its start and its training, alone or with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.explore import Explore
from dwt_cli.distill.objective.revise import Revise
from dwt_cli.distill.objective.select import Select
from dwt_cli.distill.order import Order
from dwt_cli.distill.remap.options import RandomStart
from dwt_cli.distill.signal.options import Online, Signal
from dwt_cli.models.options import provenance
from dwt_cli.recipe import formerly
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.crossover import CrossingStage
from dwt_cli.recipe.distillation import distillation_of
from dwt_cli.recipe.maps import MapsStage
from dwt_cli.recipe.order import ScoresStage, account_of, scores_for, text_for
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.signal import SignalStage
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.start import remap
from dwt_cli.recipe.teacher import TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.protocols import Moment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dwt_cli.distill.signal.cached import CachedSignal

_SAMPLES = 1000  # moments of a run at which its schedule is asked for the teacher's weight


class Trained(NamedTuple):
    """A model, and what is known of it and its training."""

    model: PreTrainedModel
    facts: Facts


@dataclass(frozen=True)
class StudentStage(Stage):
    """A student from its start to the end of its training; its artifact is a `Trained` one.

    teacher: its stage; None: there is none, and alpha, revise and select are idle. train_tokens:
    the length of the text, where it is said before there is a corpus. after: an earlier student's
    stage, whose model this one trains on. folder: of its metrics and checkpoints, below the run's
    directory. root: of all runs.
    """

    word = "student"
    seed: int
    shapes: Shapes
    corpus: CorpusStage
    teacher: TeacherStage | None
    alpha: Schedule
    revise: Revise
    select: Select
    signal: Signal = field(default_factory=Online)
    explore: Explore = field(default_factory=Explore)
    order: Order = field(default_factory=Order)
    train_tokens: int | None = None
    after: StudentStage | None = None
    name: str = "student"
    purpose: str = "student"
    folder: str = ""
    root: Path = Path("runs")

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the student.

        weights: of a model that is opened. What follows ``after`` is there with a teacher.
        """
        of, shapes, teacher = self.shapes.conditions, self.shapes, self.teacher
        opened = [provenance(each.path, each.revision) for _, each in shapes.student.checkpoints()]
        alone = {
            "text": self.corpus.identity,
            "task": of.task,
            "student": shapes.student,
            "tuning": shapes.tuning if shapes.tuning.freezes else None,
            "remap": shapes.remap,
            "optim": of.optim,
            "train": of.train,
            "eval": of.eval,
            "seed": self.seed,
            "weights": opened or None,
            "after": self.after and self.after.identity,
        }
        if teacher is None:
            return alone
        return alone | {
            "teacher": teacher.options,
            "teachers": teacher.identities,
            "alpha": self.alpha,
            "objectives": shapes.objectives,
            "revise": self.revise,
            "select": self.select,
            "signal": self.cached and self.cached.options,
            "explore": self.explore.writes,
            "order": self.order.chosen,
            "scores": [stage.identity for stage in self.scores] or None,
        }

    @cached_property
    def formerly(self) -> str | None:
        before = {"teachers": self.teacher.former_identities} if self.teacher else {}
        return formerly.of("student", self.parts, text=self.corpus.formerly, **before)

    @property
    def stages(self) -> list[Stage]:
        """What a run goes through to make it, on all ranks and in this order."""
        if self.after:
            return [*self.after.stages, self]
        teachers = [*self.teacher.members, self.teacher] if self.teacher else []
        others = [stage for stage in (self.crossing, self.maps, *self.scores, self.cached) if stage]
        return [self.corpus, *teachers, *others, self]

    @property
    def in_turn(self) -> list[Stage]:
        """Those of them that are carried out one by one: a cached signal calls the others.

        These are the teachers that nobody else needs.
        """
        teacher, is_needed = self.teacher, self.shapes.remap.needs_teacher or self.crossing
        if teacher is None or self.cached is None or is_needed:
            return self.stages
        asked = {stage.name for stage in (*teacher.members, teacher)}
        return [stage for stage in self.stages if stage.name not in asked]

    @property
    def taught_by(self) -> Stage | None:
        """The stage whose artifact teaches; None: nobody does."""
        return self.cached or self.teacher

    @cached_property
    def cached(self) -> SignalStage | None:
        """The stage of a cached signal; None: the teacher is asked in each step, or never."""
        options, teacher = self.signal.cached, self.teacher
        if not (options and teacher and self.shapes.are_cached):
            return None
        return SignalStage(options, self, teacher)

    @cached_property
    def scores(self) -> list[ScoresStage]:
        """The stages of the losses by which the blocks that it reads are chosen."""
        return scores_for(self)

    def costs(self, done: Mapping[str, Any], cache: Cache) -> dict[str, float | None]:
        """Return the FLOPs of each stage that are left to be spent."""
        return {
            stage.name: 0.0 if stage.is_kept(cache) else stage.cost(done) for stage in self.stages
        }

    @cached_property
    def maps(self) -> MapsStage | None:
        """The stage of the maps that it starts by; None: there are none to learn."""
        learned, teacher = self.shapes.remap.learned, self.teacher
        return MapsStage(learned, self, teacher) if learned and teacher else None

    @cached_property
    def crossing(self) -> CrossingStage | None:
        """The stage of the step at which the teacher is left; None: no step is looked for."""
        options, teacher = self.alpha.crossing, self.teacher
        if not (options and teacher):
            return None
        assert self.after is None, "its curve would begin where another training ends"
        return CrossingStage(options, self.alone(), teacher, self.root)

    def schedule(self, done: Mapping[str, Any]) -> Schedule:
        """Return alpha as it is in this run, as far as ``done`` lets it be known."""
        found = done.get(self.crossing.name) if self.crossing else None
        return self.alpha.placed(self.num_steps(done), found and found["step"])

    def alone(self, steps: int | None = None) -> StudentStage:
        """Return the same student without any teacher, trained for as long or for ``steps``."""
        before = self.after and self.after.alone()
        shapes = replace(self.shapes, remap=RandomStart())
        if steps is not None:
            shapes = replace(shapes, conditions=shapes.conditions.lasting(steps))
        return replace(self, teacher=None, after=before, shapes=shapes)

    def equal_steps(self, facts: Facts) -> int | None:
        """Return the steps without a teacher that take the FLOPs of a training, its teacher's
        forward passes counted; None where they are not known."""
        if facts.flops is None or facts.teacher_forward_flops is None:
            return None
        step_flops = facts.step_flops or self.shapes.step_flops  # of older runs it is counted
        found = facts.calibration_flops + facts.scoring_flops
        return round((facts.flops + facts.teacher_forward_flops + found) / step_flops)

    def start(self) -> tuple[PreTrainedModel, list[str]]:
        """Return the model without a teacher's weights, in fp32, and the weights that are fresh."""
        shapes = self.shapes
        return shapes.student.start(self.seed, shapes.conditions.task.head, shapes.student_config)

    def num_steps(self, done: Mapping[str, Any]) -> int | None:
        """Return the length of the training; None while the length of the text is not known."""
        of = self.shapes.conditions
        return of.train.num_steps(self.corpus.steps_per_epoch(of, done, self.train_tokens))

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of the student and of its teachers' forward passes."""
        steps = self.num_steps(done)
        if steps is None:
            return None
        flops, samples = steps * self.shapes.step_flops, min(steps, _SAMPLES)
        if self.teacher is None:
            return flops
        # a schedule that reacts is taken as it begins
        alpha = self.schedule(done)
        weights = (alpha.weights(Moment(n / samples)) for n in range(samples))
        share = sum(weight.soft != 0 for weight in weights) / samples
        shown, asked = self.taught_flops(done)
        return flops + steps * share * (shown + (0.0 if self.cached else asked))

    def taught_flops(self, done: Mapping[str, Any]) -> tuple[float, float]:
        """Return `Shapes.taught_flops`, with those of what the teacher writes."""
        teacher = done.get(self.teacher.name) if self.teacher else None
        shown, asked = self.shapes.taught_flops(teacher and teacher.facts)
        if (writes := self.explore.writes) is None:
            return shown, asked
        flops, share = self.shapes.conditions.step_flops, writes.exact_share
        asked += share * sum(map(self.shapes.answer_flops, self.shapes.teacher_models))
        return shown + share * writes.asks_student * flops(self.shapes.student_model), asked

    def carry_out(self, done: Done, at: Context) -> Trained:
        """Return the student at its end; metrics and checkpoints are in the run's directory."""
        from dwt_cli.distill.loss import DistillationLoss
        from dwt_cli.models.checkpoint import save_model
        from dwt_cli.models.flops import num_parameters
        from dwt_cli.recipe.samples import pad
        from dwt_cli.training.parallel import load_state, state_on_first
        from dwt_cli.training.removal import removal_of

        of, corpus = self.shapes.conditions, text_for(self, done)
        if of.train.epochs is not None and corpus is not done[self.corpus.name]:  # the whole text's
            of = replace(of, train=replace(of.train, max_steps=self.num_steps(done), epochs=None))
        remapped, fresh = None, None
        if self.after is not None:
            model = done[self.after.name].model
            if of.parallel.sharding(at.ranks.size):  # it is whole on rank 0 alone
                state = state_on_first(model) if at.ranks.is_first else {}
                model = model if at.ranks.is_first else self.start()[0]
                load_state(model, state, at.ranks)
        else:
            model, fresh = self.start()
            pad(model, of, corpus)
            if self.shapes.remap.needs_teacher:
                remapped = remap(self, model, done, at)
        self.shapes.attach(model, self.seed)
        tuning = self.shapes.tuning
        distillation = distillation_of(self, model, done, at)
        loss = DistillationLoss(distillation)
        cached: CachedSignal | None = done[self.cached.name].signal if self.cached else None
        facts = of.fit(
            self,
            of.wrapped(model, at.machine),
            loss,
            corpus,
            at,
            purpose=self.purpose,
            seed=self.seed,
            folder=at.folder / self.folder,
            shares=of.eval.at,
            save=lambda place: save_model(tuning.merged(model), corpus.tokenizer, place),
            compile_loss=None if self.shapes.features[0] or tuning.freezes else loss.compile,
            beside=cached.beside if cached else None,
            watching=removal_of(tuning, model, self.seed),
        )
        if at.ranks.is_first or not of.parallel.sharding(at.ranks.size):
            facts = replace(facts, tuning=tuning.merge(model), parameters=num_parameters(model))
        num_taught, (shown, asked) = facts.num_taught or 0, self.taught_flops(done)
        flops = (facts.flops or 0) + shown * num_taught
        asked = cached.account["flops"] if cached else asked * num_taught
        facts = replace(facts, flops=flops, teacher_forward_flops=asked, remap=remapped)
        if self.crossing:
            facts = replace(facts, crossing=done[self.crossing.name])
        if cached:
            facts = replace(facts, signal=dict(cached.account))
        facts = replace(facts, order=account_of(self, corpus, done))
        return Trained(model, replace(facts, fresh=fresh or None))

    def newest(self, done: Done, at: Context) -> Trained:
        """Return the student of the newest checkpoint, trained no further."""
        from dwt_cli.models.flops import num_parameters
        from dwt_cli.recipe.samples import pad

        conditions, folder = self.shapes.conditions, at.folder / self.folder
        model, _ = self.start()
        pad(model, conditions, done[self.corpus.name])
        self.shapes.attach(model, self.seed)
        wrapped = conditions.wrapped(model, at.machine).to(at.machine.device)
        counters = conditions.checkpoints(self, folder, at).restore(wrapped)
        if not counters.step:
            raise UserError(f"{folder} has no whole checkpoint: train first")
        heldout = conditions.evaluation(done[self.corpus.name], at)(wrapped)
        tuned = self.shapes.tuning.merge(model)
        facts = Facts(
            parameters=num_parameters(model),
            steps=counters.step,
            tokens=counters.step * conditions.tokens_per_step,
            heldout=heldout,
            tuning=tuned,
        )
        return Trained(model, facts)
