"""The stage that measures models: a run's own, or a checkpoint (``dwt-eval``)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from transformers import PreTrainedTokenizerBase

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
from dwt_cli.evaluate.measurement import EvaluatedModel, Measurement, Results
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.checkpoint import located, open_config, open_encoder, provenance
from dwt_cli.models.options import Checkpoint
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.shapes import Conditions
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.options import Task
from dwt_cli.track.display import plain_line
from dwt_cli.track.options import Entry, Tracker
from dwt_cli.training.snapshots import place_of

Moments = dict[str, Results]
"""What was measured, by the moment of the training: "at 25%", or "score" for its end."""

_SETTING = "model"


class Opened(NamedTuple):
    """A model to be measured, and whether its language-model head was saved."""

    tested: EvaluatedModel
    has_head: bool


@dataclass(frozen=True)
class EvaluationStage(Stage):
    """The measures of a model; without one, of a run's own at the shares that ``eval.at`` names.

    found_by: returns the fingerprint of what is measured. Rank 0 measures, the others go on.
    """

    options: Eval
    conditions: Conditions
    corpus: CorpusStage
    found_by: Callable[[], str]
    model: Opened | None = None
    name: str = "evaluation"

    @property
    def identity(self) -> str:
        return self.found_by()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for but what a run's summary has."""
        return self.options.measures == ["lm"] and self.options.at == [1.0]

    def carry_out(self, done: Done, at: Context) -> Moments:
        """Return what could be measured, and the lines for what could not."""
        if not at.ranks.is_first:
            return {}
        if self.model is not None:
            return {"score": self._measured(self.model, done, at)}
        moments = {}
        for share in sorted(self.options.at):
            place, moment = place_of(at.folder, share), f"at {share:.0%}" if share < 1 else "score"
            if place.is_dir():
                model = opened(str(place), None, None, self.conditions.task, at.machine)
                moments[moment] = self._measured(model, done, at)
            else:
                problem = (
                    f"eval.at={share:g}: the run has no model of that moment, it was trained "
                    "without this setting; run.fresh=true trains it anew"
                )
                moments[moment] = Results({}, [problem])
        return moments

    def _measured(self, model: Opened, done: Done, at: Context) -> Results:
        @once
        def text() -> tuple[Corpus, str, HeldoutBatches]:
            if self.corpus.name not in done:
                done[self.corpus.name] = self.corpus.carry_out(done, replace(at, ranks=ALONE))
            corpus = done[self.corpus.name]
            heldout = self.conditions.heldout(corpus, at.ranks.size)
            return corpus, self.corpus.identity, heldout

        shown = (at.show.say, at.show.update)
        asked = Measurement(model.tested, self.options, text, at.cache, *shown)
        return measures.carry_out(asked, model.has_head)


def opened(
    path: str, revision: str | None, tokenizer_path: str | None, task: Task, machine: Machine
) -> Opened:
    """Return the model at a path; `UserError` when it and its tokenizer cannot be used."""
    options = Checkpoint(path=path, revision=revision)
    open_config(_SETTING, options, task.head)
    place = tokenizer_path or located(_SETTING, path)
    tokenizer = corpora.open_tokenizer(place, task.special_tokens)
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
    tested = EvaluatedModel(model.eval(), tokenizer, task, identity, machine.device, machine.dtype)
    return Opened(tested, not lacking)


def text_for(tested: EvaluatedModel, data: Data, cache: Cache) -> CorpusStage:
    """Return the stage of a text in a model's own tokens; models may share a tokenizer."""
    tokenizer = tested.tokenizer
    length = min(data.block_length, num_positions(tested.model.config))
    data = replace(data, tokenizer=None, vocab_size=len(tokenizer), block_length=length)
    return CorpusStage(data, tested.task, lambda: str(_kept(tokenizer, cache)))


def _kept(tokenizer: PreTrainedTokenizerBase, cache: Cache) -> Path:
    """Return a folder of the tokenizer without its model: a corpus is found by that folder."""

    def make(folder: Path) -> None:
        tokenizer.save_pretrained(folder)

    entries, kind = tokenizer.get_vocab(), type(tokenizer).__name__
    identity = fingerprint("tokenizer", entries, tokenizer.special_tokens_map, kind)
    return cache.get("tokenizer", identity, make, {})


def report_scores(
    moments: Moments, entry: Entry, tracker: Tracker, machine: Machine, console: Console
) -> None:
    """Write, send and print what was measured; `UserError` last for what could not be."""
    say, file = plain_line(console), entry.folder / "scores.json"
    found, lacking = report.rows(moments), report.problems(moments)
    scores = {"scores": found, "not_measured": lacking, "environment": machine.describe()}
    atomic.write_json(file, scores)
    report.print_scores(console, say, entry.folder.name, moments)
    with tracker.open(entry, say):
        pass  # scores.json is there
    for line in lacking:
        say(f"not measured: {line}")
    say(f"scores: {file}")
    if len(lacking) == 1:
        raise UserError(lacking[0])
    if lacking:
        raise UserError(
            f"{len(lacking)} things could not be measured: see above; the same command goes on "
            "with what is missing"
        )
