"""The measures of models: a run's own, once it is finished, or a checkpoint (``dwt-eval``)."""

from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
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
from dwt_cli.data.tokenizer import content
from dwt_cli.evaluate import measures, report
from dwt_cli.evaluate.measurement import EvaluatedModel, Measurement, Results
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.checkpoint import open_config, open_model
from dwt_cli.models.options import Checkpoint, Head, located, provenance
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.finetuning import TaskTunings
from dwt_cli.recipe.stage import Context, Done
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


def measure_run(corpus: CorpusStage, conditions: Conditions, at: Context) -> Moments:
    """Measure a run's own models, at the shares of its training that ``eval.at`` names.

    Returns what could be measured, and the lines for what could not. Rank 0 alone does it.
    """
    moments, done = {}, Done()
    for share in sorted(conditions.eval.at):
        place, moment = place_of(at.folder, share), f"at {share:.0%}" if share < 1 else "score"
        if place.is_dir():
            model = opened(str(place), None, None, conditions.task, at.machine)
            moments[moment] = measure(model, corpus, conditions, at, done)
        else:
            problem = (
                f"eval.at={share:g}: the run has no model of that moment, it was trained "
                "without this setting; run.fresh=true trains it anew"
            )
            moments[moment] = Results({}, [problem])
    return moments


def measure(
    model: Opened, corpus: CorpusStage, conditions: Conditions, at: Context, done: Done
) -> Results:
    """Return a model's measures. corpus: the stage of a text in its tokens, which may be needed."""

    @once
    def text() -> tuple[Corpus, str, HeldoutBatches]:
        if corpus.name not in done:
            done[corpus.name] = corpus.carry_out(done, replace(at, ranks=ALONE))
        blocks = done[corpus.name]
        return blocks, corpus.identity, conditions.heldout(blocks, at.ranks.size)

    tokenizer = lambda: str(_kept(model.tested.tokenizer, at.cache))  # noqa: E731
    tunings = partial(TaskTunings.of, model.tested, tokenizer, at)
    shown = (at.show.say, at.show.update)
    asked = Measurement(model.tested, conditions.eval, text, tunings, at.cache, *shown)
    return measures.carry_out(asked, model.has_head)


def opened(
    path: str, revision: str | None, tokenizer_path: str | None, task: Task, machine: Machine
) -> Opened:
    """Return the model at a path; `UserError` when it and its tokenizer cannot be used."""
    options = Checkpoint(path=path, revision=revision)
    open_config(_SETTING, options, task.head)
    place = tokenizer_path or located(_SETTING, path)
    tokenizer = corpora.open_tokenizer(place, task.special_tokens)
    model, lacking = open_model(_SETTING, options, task.head, needs_head=False)
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"{_SETTING}={path} has a vocabulary of {model.config.vocab_size}, its tokenizer "
            f"{len(tokenizer)} entries: set data.tokenizer to the one that it was trained with"
        )
    if task.head is Head.causal:  # many decoders have none; what fills a batch up is never read
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
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


@dataclass(frozen=True, kw_only=True)
class ModelsText(CorpusStage):
    """A text in a model's own tokens, which may have been trained on this very text.

    trained: the stage of that text, as a run packs it that trains its tokenizer.
    """

    trained: CorpusStage

    def place(self, cache: Cache) -> Path:
        packed = self.trained.place(cache)
        if atomic.is_sealed(packed) and content(str(packed / "tokenizer")) == self.opened_tokenizer:
            return packed
        return super().place(cache)


def text_for(tested: EvaluatedModel, data: Data, cache: Cache) -> CorpusStage:
    """Return the stage of a text in a model's own tokens; models may share a tokenizer."""
    tokenizer, config = tested.tokenizer, tested.model.config
    length = min(data.block_length, num_positions(config))
    data = replace(data, tokenizer=None, vocab_size=config.vocab_size, block_length=length)
    trained = CorpusStage(data, tested.task, lambda: None)
    data = replace(data, vocab_size=len(tokenizer))
    return ModelsText(
        data, tested.task, lambda: str(_kept(tokenizer, cache)), name=trained.name, trained=trained
    )


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
