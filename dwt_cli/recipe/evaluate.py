"""The stage that measures models: a run's own, or a checkpoint (``dwt-eval``)."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache as once
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Data
from dwt_cli.evaluate import measures, report
from dwt_cli.evaluate.measures import Measurement, Results
from dwt_cli.evaluate.options import Eval
from dwt_cli.evaluate.score import EvaluatedModel
from dwt_cli.evaluate.snapshots import place_of
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.checkpoint import located, open_config, open_encoder, provenance
from dwt_cli.models.options import Checkpoint
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.options import Task
from dwt_cli.track.display import plain_line
from dwt_cli.track.options import Entry, Tracker

Moments = dict[str, Results]
"""What was measured, by the moment of the training: "at 25%", or "score" for its end."""

_SETTING = "model"


@dataclass(frozen=True, kw_only=True)
class EvaluationStage(Stage):
    """Models and what is measured of them; the artifact is the scores by moment.

    The first rank measures, the others go on.
    """

    name: str = "evaluation"
    options: Eval
    conditions: Conditions

    @property
    def bars(self) -> tuple[str, ...]:
        return ("corpus", *self.options.measures)

    @abstractmethod
    def models(self, at: Context) -> Iterator[tuple[str, "Opened | Results"]]:
        """Yield each moment with the model of then, or with why there is none."""

    @abstractmethod
    def text(self, opened: "Opened", at: Context) -> CorpusStage:
        """Return the stage of the text on which a model is measured."""

    def carry_out(self, done: Done, at: Context) -> Moments:
        """Return what could be measured, and the lines for what could not."""
        if not at.ranks.is_first:
            return {}
        return {
            moment: self._measured(opened, done, replace(at, ranks=ALONE), at.ranks.size)
            if isinstance(opened, Opened)
            else opened
            for moment, opened in self.models(at)
        }

    def _measured(self, opened: "Opened", done: Done, at: Context, num_ranks: int) -> Results:
        @once
        def text() -> tuple[Corpus, str, HeldoutBatches]:
            stage = self.text(opened, at)
            if stage.name not in done:
                done[stage.name] = stage.carry_out(done, at)
            corpus = done[stage.name]
            return corpus, stage.identity, self.conditions.heldout(corpus, num_ranks)

        tested = EvaluatedModel(
            opened.model,
            opened.tokenizer,
            self.conditions.task,
            opened.identity,
            at.machine.device,
            at.machine.dtype,
        )
        asked = Measurement(tested, self.options, text, at.show.say, at.show.update)
        return measures.carry_out(asked, at.cache, opened.has_head)


@dataclass(frozen=True, kw_only=True)
class RunEvaluation(EvaluationStage):
    """A run's own models, at the shares of its training that ``eval.at`` names."""

    corpus: CorpusStage
    student: Stage

    @property
    def identity(self) -> str:
        return self.student.identity

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for but what the summary has."""
        return self.options.measures == ["lm"] and self.options.at == [1.0]

    def models(self, at: Context) -> Iterator[tuple[str, "Opened | Results"]]:
        for share in sorted(self.options.at):
            place = place_of(at.folder, share)
            moment = f"at {share:.0%}" if share < 1 else "score"
            if place.is_dir():
                yield moment, opened_model(str(place), self.conditions.task)
                continue
            problem = (
                f"eval.at={share:g}: the run has no model of that moment, it was trained without "
                "this setting; run.fresh=true trains it anew"
            )
            yield moment, Results(problems=[problem])

    def text(self, opened: "Opened", at: Context) -> CorpusStage:
        return self.corpus


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation(EvaluationStage):
    """A checkpoint, on text in its own tokens."""

    path: str
    revision: str | None
    data: Data

    @cached_property
    def opened(self) -> "Opened":
        """The model; `UserError` when it cannot be opened."""
        return opened_model(self.path, self.conditions.task, self.revision, self.data.tokenizer)

    @property
    def identity(self) -> str:
        return self.opened.identity

    @property
    def folder(self) -> str:
        """The name of the folder for its scores: a path's last two parts, and the identity."""
        readable = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(Path(self.path).parts[-2:]))[:80]
        return f"eval-{readable}-{self.identity}"

    def models(self, at: Context) -> Iterator[tuple[str, "Opened | Results"]]:
        yield "score", self.opened

    def text(self, opened: "Opened", at: Context) -> CorpusStage:
        """Return the stage of the text in the model's tokens; models may share a tokenizer."""
        tokenizer = str(_kept(opened.tokenizer, at.cache))
        data = replace(
            self.data,
            tokenizer=tokenizer,
            vocab_size=len(opened.tokenizer),
            block_length=min(self.data.block_length, num_positions(opened.model.config)),
        )
        return CorpusStage(data=data, task=self.conditions.task, tokenizer=lambda: tokenizer)


class Opened(NamedTuple):
    """A model and its tokenizer, and whether it has the head that it was pre-trained with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: str
    has_head: bool


def opened_model(
    path: str, task: Task, revision: str | None = None, tokenizer_path: str | None = None
) -> Opened:
    """Return the model at a path; `UserError` when it and its tokenizer cannot be used."""
    options = Checkpoint(path=path, revision=revision)
    open_config(_SETTING, options, task.head)
    tokenizer = corpora.open_tokenizer(
        tokenizer_path or located(_SETTING, path), task.special_tokens
    )
    model, lacking = open_encoder(_SETTING, options, task.head)
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"{_SETTING}={path} has a vocabulary of {model.config.vocab_size}, its tokenizer "
            f"{len(tokenizer)} entries: set data.tokenizer to the one that it was trained with"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{_SETTING}={path}: its tokenizer has no pad_token; set data.tokenizer to another"
        )
    commit = getattr(model.config, "_commit_hash", None) or revision
    identity = fingerprint(
        "model", provenance(path, commit), tokenizer_path and provenance(tokenizer_path)
    )
    return Opened(model.eval(), tokenizer, identity, not lacking)


def _kept(tokenizer: PreTrainedTokenizerBase, cache: Cache) -> Path:
    """Return a folder of the tokenizer without its model: a corpus is found by that folder."""

    def make(folder: Path) -> None:
        tokenizer.save_pretrained(folder)

    identity = fingerprint(
        "tokenizer", tokenizer.get_vocab(), tokenizer.special_tokens_map, type(tokenizer).__name__
    )
    return cache.get("tokenizer", identity, make, {})


def report_scores(
    moments: Moments,
    folder: Path,
    identity: str,
    settings: dict[str, Any],
    tracker: Tracker,
    machine: Machine,
    console: Console,
) -> None:
    """Write, send and print what was measured; `UserError` last for what could not be."""
    say = plain_line(console)
    found, lacking = report.rows(moments), report.problems(moments)
    atomic.write_json(
        folder / "scores.json",
        {"scores": found, "not_measured": lacking, "environment": machine.describe()},
    )
    report.print_scores(console, say, folder.name, moments)
    with tracker.open(Entry(folder, identity, folder.name, settings), say):
        pass  # scores.json is there
    for line in lacking:
        say(f"not measured: {line}")
    say(f"scores: {folder / 'scores.json'}")
    if lacking:
        raise UserError(
            lacking[0]
            if len(lacking) == 1
            else f"{len(lacking)} things could not be "
            "measured: see above; the same command goes on with what is missing"
        )
