"""How good a model is, in plain prose: of a checkpoint (``dwt-eval``), or of a run's own models."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache as once
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.base.machine import Machine
from dwt_cli.config.run import Evaluation, Run
from dwt_cli.data import corpus as corpora
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.evaluate import measures, report
from dwt_cli.evaluate.measures import Looking, Results
from dwt_cli.evaluate.score import Subject
from dwt_cli.evaluate.snapshots import place_of
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.checkpoint import located, open_config, open_encoder, provenance
from dwt_cli.recipe.recipe import Recipe
from dwt_cli.recipe.stage import Workshop
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.options import Task
from dwt_cli.track.display import Display, plain_line
from dwt_cli.track.options import Entry

Text = Callable[[], tuple[Corpus, str, HeldoutBatches]]
_SETTING = "model"


def evaluate(run: Evaluation, console: Console) -> None:
    """``dwt-eval``: measure a checkpoint, print the table, and write it below ``run.root``.

    Raises `UserError` when the model cannot be opened, and after all else when something could
    not be measured.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    say = plain_line(console)
    machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision)
    cache = Cache(run.run.cache, say)
    measures.check(run.eval)
    subject, has_head = _opened(run.model, run.revision, run.data.tokenizer, machine, run.task)
    with Display(console, dict.fromkeys(("corpus", *run.eval.measures), 0.0)) as display:
        text = once(lambda: _text(run, subject, machine, cache, display))
        results = _measured(run, subject, has_head, text, cache, display)
    folder = Path(run.run.root).expanduser() / f"eval-{_readable(run.model)}-{subject.identity}"
    folder.mkdir(parents=True, exist_ok=True)
    _tell(run, {"score": results}, f"eval-{subject.identity}", folder, machine, console)


def evaluate_run(
    run: Run, plan: Recipe, machine: Machine, cache: Cache, folder: Path, console: Console
) -> None:
    """The models of a finished run, at the moments that ``eval.at`` names.

    Raises `UserError` after all else when something could not be measured.
    """
    if run.eval.measures == ["lm"] and run.eval.at == [1.0]:
        return  # its summary has it
    moments: dict[str, Results] = {}
    with Display(console, dict.fromkeys(("corpus", *run.eval.measures), 0.0)) as display:

        @once
        def text() -> tuple[Corpus, str, HeldoutBatches]:
            corpus = plan.corpus(display)
            return corpus, plan.corpus_id, plan.shop.heldout(corpus)

        for share in sorted(run.eval.at):
            place = place_of(folder, share)
            moment = f"at {share:.0%}" if share < 1 else "score"
            if not place.is_dir():
                moments[moment] = Results(
                    problems=[
                        f"eval.at={share:g}: the run has no model of that moment, it was trained "
                        "without this setting; run.fresh=true trains it anew"
                    ]
                )
                continue
            subject, has_head = _opened(str(place), None, None, machine, run.task)
            moments[moment] = _measured(run, subject, has_head, text, cache, display)
    _tell(run, moments, plan.student_id, folder, machine, console)


def _measured(
    run: Run, subject: Subject, has_head: bool, text: Text, cache: Cache, display: Display
) -> Results:
    return measures.carry_out(
        Looking(subject, run.eval, text, display.say, display.update), cache, has_head
    )


def _tell(
    run: Run,
    moments: dict[str, Results],
    identity: str,
    folder: Path,
    machine: Machine,
    console: Console,
) -> None:
    """Write, send and print what was found."""
    say = plain_line(console)
    found, lacking = report.rows(moments), report.problems(moments)
    atomic.write_json(
        folder / "scores.json",
        {"scores": found, "not_measured": lacking, "environment": machine.describe()},
    )
    report.print_scores(console, say, folder.name, moments)
    with run.tracker.open(Entry(folder, identity, folder.name, plain(run)), say):
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


def _readable(path: str) -> str:
    """A path's last two parts, without what a file name or a shell would trip over."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(Path(path).parts[-2:]))[:80]


# ------------------------------------------------------------------------------------ the subject


def _opened(
    path: str, revision: str | None, tokenizer_path: str | None, machine: Machine, task: Task
) -> tuple[Subject, bool]:
    """The model at a path, and whether its language-model head was saved."""
    options = CheckpointTeacher(path=path, revision=revision)
    open_config(_SETTING, options)
    tokenizer = corpora.open_tokenizer(
        tokenizer_path or located(_SETTING, path), task.special_tokens
    )
    model, lacking = open_encoder(_SETTING, options)
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
    subject = Subject(model.eval(), tokenizer, task, identity, machine.device, machine.dtype)
    return subject, not lacking


def _text(
    run: Evaluation, subject: Subject, machine: Machine, cache: Cache, display: Display
) -> tuple[Corpus, str, HeldoutBatches]:
    """The corpus in the subject's tokens; models that share a tokenizer share it."""
    tokenizer = subject.tokenizer
    data = replace(
        run.data,
        tokenizer=str(_kept(tokenizer, cache)),
        vocab_size=len(tokenizer),
        block_length=min(run.data.block_length, num_positions(subject.model.config)),
    )
    shop = Workshop(replace(run, data=data), machine, cache)
    corpus = shop.corpus(display)
    return corpus, shop.corpus_id, shop.heldout(corpus)


def _kept(tokenizer: PreTrainedTokenizerBase, cache: Cache) -> Path:
    """The tokenizer in a folder without its model: a corpus is found by the sums of that folder."""

    def make(folder: Path) -> None:
        tokenizer.save_pretrained(folder)

    identity = fingerprint(
        "tokenizer", tokenizer.get_vocab(), tokenizer.special_tokens_map, type(tokenizer).__name__
    )
    return cache.get("tokenizer", identity, make, {})
