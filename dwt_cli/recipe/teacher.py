"""The stages of the teacher: a model that is trained here or opened, a mixture, or no model.

One pre-training serves every ``teacher.budget``: the model is kept at a fixed grid of shares of
it, beside the finished one, in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dwt_cli.base.atomic import read_json
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.teacher.options import BUDGETS, MadeTeacher, Teacher
from dwt_cli.distill.teacher.several import SeveralTeachers
from dwt_cli.recipe import across, formerly
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage, TeachersText
from dwt_cli.recipe.stage import Context, Done, Stage, facts_of
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import Parallel

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from dwt_cli.data.surfaces import Surfaces
    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.tasks.batches import HeldoutBatches


class Prepared(NamedTuple):
    """A teacher that can be asked. Its signal alone holds the model, and can let go of it.

    tokens: of its own tokenizer, where that is another than the text's.
    """

    facts: Facts
    signal: TeacherSignal
    tokens: Surfaces | None = None

    @property
    def model(self) -> PreTrainedModel | None:
        """The one model whose weights remap may copy, while it is there."""
        return self.signal.model.model if self.signal.model else None

    def entropies(self, heldout: HeldoutBatches, device: torch.device) -> Tensor:
        """Return the entropies of its answers on held-out text, by target row (N,), in nats."""
        import torch

        from dwt_cli.distill.objective.base import Distribution

        with torch.no_grad():
            answers = (self.signal(batch.to(device)).targets.dense().float() for batch in heldout)
            return torch.cat([Distribution.of(logits).entropy()[:, 0] for logits in answers])

    def share(self, parallel: Parallel, at: Context) -> None:
        """Leave each rank its share of the model, if that is asked for."""
        from torch import nn

        from dwt_cli.training.parallel import shard

        sharding, model = parallel.sharding(at.ranks.size), self.signal.model
        if sharding and sharding.shard_teacher and model:
            shard(model, nn.ModuleDict(), sharding, at.machine.device, at.machine.dtype)


@dataclass(frozen=True)
class TeacherStage(Stage):
    """A teacher until it can be asked; its artifact is a `Prepared` one.

    members: the stages of those that it is made of, which come before.
    """

    name: str
    corpus: CorpusStage
    conditions: Conditions
    options: Teacher
    members: Sequence[TeacherStage] = ()

    @property
    def identities(self) -> list[str]:
        """The fingerprints of the single teachers."""
        return [teacher.identity for teacher in self.members or [self]]

    @property
    def former_identities(self) -> list[str]:
        """Those of version 0.2; what is opened is found by the same one as ever."""
        return [teacher.formerly or teacher.identity for teacher in self.members or [self]]

    def known_facts(self, cache: Cache) -> Facts | None:
        """Return the facts of one that was trained to its end before; else None."""
        is_whole = (made := self.options.made) and made.budget == 1 and not made.window
        return facts_of(self.place(cache)) if is_whole and self.is_kept(cache) else None

    def _prepared(self, facts: Facts, signal: TeacherSignal, done: Done, at: Context) -> Prepared:
        """Return it evaluated, if it is not: by its answers, as what has no one model is."""
        from dwt_cli.base.ranks import ALONE
        from dwt_cli.recipe.samples import measured

        if not facts.heldout:
            metrics = measured(self.conditions, done[self.corpus.name], at, ALONE)
            found = metrics(lambda batch: signal(batch).targets.dense())
            facts = replace(facts, heldout=found)
        if facts.fresh:  # among even logits each is the largest
            even = {"accuracy": 1 / self.conditions.num_outputs}
            facts = replace(facts, heldout=facts.heldout | even)
        at.show.update(self.name, 1.0, f"held-out {facts.loss:.3f}")
        return Prepared(facts, signal)


@dataclass(frozen=True)
class SingleStage(TeacherStage):
    """One source of soft targets, which exists.

    Its temperature is no part of its identity: it is applied.
    """

    @cached_property
    def identity(self) -> str:
        return self.options.identity()

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel | None, Facts]:
        """Return the model, None where there is none, and what is known of it."""
        of = (self.name, self.conditions.task.head)
        model, fresh = self.options.start(*of)
        known: dict[str, Any] = {"flops": None if model or self.options.is_elsewhere else 0}
        for _, checkpoint in self.options.checkpoints():
            known |= recorded(checkpoint.path)
        return model, Facts(0, {}, **known, fresh=fresh or None)

    def _wrapped(self, model: PreTrainedModel, facts: Facts, at: Context) -> tuple[Any, Facts]:
        """Return the model as it is asked: in windows, where blocks are longer than they are."""
        from dwt_cli.models.flops import num_parameters

        of, facts = self.conditions, replace(facts, parameters=num_parameters(model))
        length, wrapped = of.data.block_length, of.wrapped(model, at.machine)
        if windows := self.options.windows(model.config, length, of.task.head):
            account = {"length": windows.length, "number": len(windows.starts(length))}
            facts = replace(facts, heldout={}, windows=account)
            wrapped = windows.around(model, at.machine.dtype, at.machine.device)
        return wrapped.to(at.machine.device), facts

    def carry_out(self, done: Done, at: Context) -> Prepared:
        from dwt_cli.recipe.samples import pad

        of, wrapped = self.conditions, None
        model, facts = self.model(done, at)
        if model is not None:
            pad(model, of, done[self.corpus.name])
            wrapped, facts = self._wrapped(model, facts, at)
        corpus, vocab_size = done[self.corpus.name], of.data.vocab_size
        signal = self.options.signal(wrapped, of.num_outputs)
        if self.options.unmeasured:
            at.show.update(self.name, 1.0, self.options.unmeasured)
            return Prepared(facts, signal)
        is_apart = of.task.labelled is None  # else it is refused
        if is_apart and wrapped and (tokens := across.own_tokens(self.options, corpus)):
            between = (across.tokens_of(corpus), tokens)
            answering = self.options.across(wrapped, *between, of.task.head)
            found = across.alignment(answering, of.heldout(corpus, at.ranks.size))
            at.show.update(self.name, 1.0, str(found))  # its loss is not to be compared
            return Prepared(replace(facts, windows=None, **found._asdict()), answering, tokens)
        if is_apart and model is not None and model.config.vocab_size != vocab_size:
            from dwt_cli.distill.teacher.signal import FittedSignal

            num_tokens = len(corpus.tokenizer)
            fitted = FittedSignal(signal, num_tokens, vocab_size)
            prepared = self._prepared(replace(facts, heldout={}), fitted, done, at)
            at.show.say(
                f"{self.name}: {fitted.removed:.2%} of its probability is on rows beyond the "
                f"text's {num_tokens:,} tokens; it is taken away, and the rest sums to one"
            )
            return prepared
        if wrapped is not None and not facts.heldout:
            facts = replace(facts, heldout=of.evaluation(corpus, at)(wrapped))
        return self._prepared(facts, signal, done, at)


@dataclass(frozen=True)
class TrainedStage(SingleStage):
    """A teacher that is pre-trained here, or left as it is made.

    It is evaluated on the student's held-out text, whatever text it is trained on.
    """

    kind = "teacher"
    options: MadeTeacher

    @property
    def pretraining(self) -> Conditions:
        """The conditions of its training: the student's, but for length and own optimiser."""
        of = self.conditions.lasting(self.options.max_steps)
        return replace(of, optim=self.options.optim or of.optim)

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the pre-training, whatever becomes of it, and its facts."""
        of = self.pretraining
        return {
            "text": (self.text or self.corpus).identity,
            "options": replace(
                self.options.frozen(), budget=1.0, temperature=1.0, data=None, optim=None
            ),
            "task": of.task,
            "optim": of.optim,
            "train": of.train,
            "eval": of.eval,  # the facts have a held-out loss
            "evaluated_on": self.text and self.corpus.identity,
        }

    @cached_property
    def identity(self) -> str:
        return fingerprint("teacher", **self.parts)

    @cached_property
    def formerly(self) -> str | None:
        return formerly.of("teacher", self.parts, text=(self.text or self.corpus).formerly)

    @cached_property
    def text(self) -> TeachersText | None:
        """Text of its own to be trained on; None: the student's, or no training."""
        data, corpus = self.options.data, self.corpus
        if data is None or self.options.budget == 0:
            return None
        return TeachersText(data, corpus.task, corpus.tokenizer, name=self.name, students=corpus)

    def cost(self, done: Mapping[str, Any]) -> float:
        if self.options.budget == 0:
            return 0.0
        from dwt_cli.models.flops import FORWARD_AND_BACKWARD
        from dwt_cli.models.making import config_of, outline

        of, options = self.conditions, self.options
        forward = of.step_flops(outline(config_of(options), of.task.head))
        return forward * FORWARD_AND_BACKWARD * options.max_steps

    def model(self, done: Done, at: Context) -> tuple[PreTrainedModel, Facts]:
        """Return the model at its budget."""
        from dwt_cli.models.checkpoint import open_folder
        from dwt_cli.training.snapshots import place_of

        options, head = self.options, self.conditions.task.head
        if options.budget == 0:
            return options.start(self.name, head)[0], Facts(0, {}, flops=0, steps=0)
        about = {"options": plain(replace(options, budget=1.0)), "corpus": self.corpus.identity}
        folder = at.trained(self, lambda folder: self._pretrain(done, at, folder), about)
        facts = facts_of(folder)
        if options.budget == 1:
            return open_folder(folder / "model", head), facts
        place = place_of(folder, options.budget)
        if not place.is_dir():
            raise UserError(
                f"teacher.budget={options.budget:g}: {folder} was trained without keeping the "
                "model on its way; delete it, and it is made again"
            )
        step, whole = step_at(options.budget, options.max_steps), facts.to_json()
        share = step / whole["steps"]
        scaled = {name: whole[name] * share for name in ("epochs", "flops", "seconds")}
        tokens = whole["tokens"] * step // whole["steps"]
        return open_folder(place, head), Facts(0, {}, steps=step, tokens=tokens, **scaled)

    def _pretrain(self, done: Done, at: Context, folder: Path) -> Facts:
        from dwt_cli.distill.loss import DistillationLoss
        from dwt_cli.models.checkpoint import save_model
        from dwt_cli.track.curves import draw_curves

        of = self.pretraining
        corpus = self.text.carry_out(done, at) if self.text else done[self.corpus.name]
        model, _ = self.options.start(self.name, of.task.head)
        loss = DistillationLoss()
        facts = of.fit(
            self,
            of.wrapped(model, at.machine),
            loss,
            corpus,
            at,
            purpose="teacher",
            seed=self.options.seed,
            folder=folder,
            shares=BUDGETS[1:],
            save=model.save_pretrained,
            compile_loss=loss.compile,
        )
        if at.ranks.is_first:
            metrics, picture = folder / "metrics.jsonl", folder / "curves.png"
            draw_curves(metrics, picture, "teacher", {}, of.task.loss_unit)
            save_model(model, corpus.tokenizer, folder / "model")
        return facts


@dataclass(frozen=True)
class CombinedStage(TeacherStage):
    """A teacher that is made of others."""

    options: SeveralTeachers
    word = "mixture"

    @property
    def parts(self) -> dict[str, Any]:
        return {"options": self.options, "members": self.identities}

    def carry_out(self, done: Done, at: Context) -> Prepared:
        members: list[Prepared] = [done[member.name] for member in self.members]
        for member in members:
            member.share(self.conditions.parallel, at)
        facts = [member.facts for member in members]
        signal = self.options.combine([member.signal for member in members], at.ranks)
        flops = [each.flops for each in facts]
        mixed = Facts(
            sum(each.parameters for each in facts),
            {},
            flops=None if None in flops else sum(each or 0 for each in flops),
            seconds=sum(each.seconds or 0.0 for each in facts),
            members=dict(zip(self.options.members, facts, strict=True)),
        )
        return self._prepared(mixed, signal, done, at)


def teacher_stage(
    options: Teacher, corpus: CorpusStage, conditions: Conditions
) -> TeacherStage | None:
    """Return the stage of what teaches; None for no teacher."""
    single: list[TeacherStage] = []
    for number, (_, teacher) in enumerate(options.each(), 1):
        name = f"teacher {number}" if options.combined else "teacher"
        if made := teacher.made:
            single.append(TrainedStage(name, corpus, conditions, made))
        else:
            single.append(SingleStage(name, corpus, conditions, teacher))
    if combined := options.combined:
        return CombinedStage("teacher", corpus, conditions, combined, single)
    return single[0] if single else None


def recorded(path: str) -> dict[str, Any]:
    """Return what a run has recorded that its model took, its own teacher's part included."""
    folder = Path(path).expanduser()
    run = folder.parent if folder.name == "model" else folder
    cost = (read_json(run / "summary.json") or {}).get("cost")
    if cost is None:
        return {}
    flops = [count for name, count in cost.items() if name.endswith("_flops")]
    return {"flops": None if None in flops else sum(flops), "tokens": cost.get("tokens")}


def step_at(budget: float, max_steps: int) -> int:
    """Return the first step at which so much is done."""
    return math.ceil(round(budget * max_steps, 6))
