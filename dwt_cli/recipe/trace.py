"""``dwt-trace``: a finished run, its text and its snapshots -> which blocks made it say so."""

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.console import Console

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.home import with_home
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine
from dwt_cli.base.options import Device, Precision
from dwt_cli.config.compose import runs_of
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.queries import Query, read_queries
from dwt_cli.evaluate.trace import Products, Text, places_of
from dwt_cli.evaluate.trace_page import PAGE, SCORES, BlockTexts, Trace, write_page, write_scores
from dwt_cli.recipe.record import read_summary
from dwt_cli.recipe.worker import let_transformers_be_quiet
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.track.display import Display, plain_line
from dwt_cli.track.metrics import read_settings
from dwt_cli.track.summary import Summary
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.rollback import Rollbacks
from dwt_cli.training.snapshots import place_of, snapshots_of

SHARES = "eval.at=[0,0.25,0.5,0.75,1]"
"""The setting with which a run keeps what is needed here."""

_STAGE, _VISITS = "trace", 4


@dataclass(frozen=True)
class Options:
    """Options of a trace.

    beta: how much of the start's products is taken off. raw: products are not brought to one size
    before. visits: times that a block was read, whose masks count; None: 4, or as many as there
    are. top: blocks on the page. out, cache: folders; None: of the run.
    """

    beta: float = 1.0
    raw: bool = False
    visits: int | None = None
    top: int = 20
    out: Path | None = None
    cache: str | None = None

    def check(self) -> None:
        """Raise `UserError` for what is out of range."""
        if not 0 <= self.beta < math.inf:
            raise UserError(f"--beta {self.beta:g}: give 0 (nothing is taken off) or more")
        for name in ("visits", "top"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} {value}: give 1 or more")


def _command(settings: Mapping[str, Any], *more: str) -> str:
    """Return the command of a run with other words, as far as its record knows it."""
    given = {word.partition("=")[0] for word in (*more, "run.fresh=")}
    kept = (word for word in settings["overrides"] if word.partition("=")[0] not in given)
    if "study" in settings:
        return (
            f"the command of its study with {shlex.join(more)}" if more else "its study's command"
        )
    return shlex.join(["dwt-train", *kept, *more])


@dataclass(frozen=True)
class FinishedRun:
    """What a run's folder says of it, as far as its text and its order follow from that."""

    folder: Path
    settings: dict[str, Any]
    summary: Summary

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Return the run of a folder; `UserError` where there is none, or it is not finished."""
        settings, summary = read_settings(folder), read_summary(folder)
        if "student" not in settings or "choices" not in settings:
            raise UserError(f"{folder} is no run: give the folder that dwt-train calls its record")
        if summary is None:
            again = _command(settings)
            raise UserError(f"{folder} is not finished: {again} goes on with it; trace it then")
        if "train_texts" in summary.corpus:
            raise UserError(
                f"{folder} was trained on labelled texts: trace a language model, which reads "
                "blocks of text"
            )
        return cls(folder, settings, summary)

    def again(self, *more: str) -> str:
        """Return the command that trains it anew, with other words."""
        return _command(self.settings, *more, "run.fresh=true")

    def snapshots(self) -> dict[float, Path]:
        """Return its models by the share of the training; `UserError` where they are too few."""
        names = (path.name for path in snapshots_of(self.folder).glob("*"))
        kept = [float(name) for name in names if re.fullmatch(r"[\d.e-]+", name)]
        places = {share: place_of(self.folder, share) for share in [*sorted(kept), 1.0]}
        found = {share: place for share, place in places.items() if place.is_dir()}
        if 1.0 not in found:
            raise UserError(
                f"{self.folder} has no model/ of its end: "
                f"{_command(self.settings, 'run.export=true')} saves its newest checkpoint's as "
                "export-step-N there; name that model"
            )
        if 0.0 in found and len(found) > 1:
            return found
        lacking = "no snapshot of its start" if kept else "no snapshots"
        raise UserError(
            f"{self.folder} has {lacking}: {self.again(SHARES)} trains it anew, and keeps them"
        )

    def corpus(self, cache: Cache) -> Corpus:
        """Return its text; `UserError` where the cache no longer has it."""
        about = self.summary.corpus
        kept = cache.kept_as("corpus", about["fingerprint"], about.get("formerly"))
        place = cache.place("corpus", kept)
        if not atomic.is_sealed(place):
            raise UserError(
                f"{self.folder}: its text is no longer in the cache ({place}): name the cache that "
                f"has it with --cache, or {self.again(SHARES)} makes both anew"
            )
        return Corpus.open(place)

    def _options(self, group: str) -> Any:
        """Return its settings of a group, typed."""
        (usual,), _ = runs_of([f"{group}={self.settings['choices'][group]}"])
        typed = OmegaConf.merge(OmegaConf.structured(getattr(usual, group)), self.settings[group])
        return OmegaConf.to_object(typed)

    def text(self, corpus: Corpus, visits: int | None, say: Callable[[str], None]) -> Text:
        """Return the batches of its training, at the first visits of each block."""
        task, train, seed = self._options("task"), self._options("train"), self.settings["seed"]
        size, num_steps = train.batch_size, self.summary.student.steps
        assert num_steps is not None, "a student has them"
        if self.summary.student.order:
            raise UserError(
                f"{self.folder} has read a part of its text, which is not traced: trace a run with "
                "order=all, and no teacher.reward=probe"
            )
        rollbacks = Rollbacks.of(Checkpoints(self.folder / "checkpoints", "", 1, say), train)
        if rollbacks.undone != (self.summary.student.num_undone or 0):
            raise UserError(
                f"{rollbacks.checkpoints.folder} no longer has rollbacks.json, so which text was "
                "left out is not known; put it back, or train anew"
            )
        steps = [rollbacks.text_of(step) for step in range(num_steps)]
        targets = task.targets(corpus.tokenizer)
        batches = TrainBatches(corpus.train, targets, size, seed, "student")
        wanted = visits or _VISITS
        num_visits = min(wanted, task.num_variants or wanted)
        if visits and num_visits < visits:
            say(f"warning: --visits {visits} has no effect above {num_visits}")
        parts = (self.summary.corpus["fingerprint"], task, size, seed, steps, num_visits)
        places = places_of(batches, steps, num_visits)
        return Text(task, batches, places, num_visits, fingerprint("places", *parts))

    def warnings(self, beta: float) -> list[str]:
        """Return a line for each thing that makes scores mean something else."""
        choices, found = self.settings["choices"], []
        if beta and choices.get("remap") == "random" and choices.get("student") != "checkpoint":
            found.append(
                "warning: this run started from random weights, which know nothing to be taken "
                "off; --beta 0 leaves them out"
            )
        if choices.get("explore", "none") != "none":
            found.append(
                f"warning: explore={choices['explore']}: what the teacher wrote into the text is "
                "not traced"
            )
        return found


def carry_out(folder: Path, file: Path, options: Options, console: Console) -> None:
    """Trace a file of queries in a finished run; write the page and the scores, and say where.

    Raises `UserError` for a mistake, before anything is computed.
    """
    let_transformers_be_quiet()
    options.check()
    say, run = plain_line(console), FinishedRun.read(folder)
    snapshots = run.snapshots()
    usual = run.settings["run"].get("cache")
    cache = Cache(options.cache or (with_home(usual) if usual else None), say)
    corpus = run.corpus(cache)
    text = run.text(corpus, options.visits, say)
    queries = read_queries(file, text.task, corpus.tokenizer, corpus.train.block_length)
    for line in run.warnings(options.beta):
        say(line)
    products, losses = _products(queries, snapshots, text, cache, console)
    trace = Trace(
        run.summary.name,
        queries,
        list(snapshots),
        options.beta,
        options.raw,
        text.num_visits,
        text.blocks_B,
        BlockTexts.of(corpus, text.task.frame, text.blocks_B),
        products,
        losses,
    )
    out = options.out or folder / "trace" / file.stem
    with atomic.needing_room(out):
        out.mkdir(parents=True, exist_ok=True)
        write_scores(trace, out / SCORES)
        write_page(trace, options.top, out / PAGE)
    for q, query in enumerate(queries):
        first = trace.highest(q, 1)
        best = f"block {first[0]['block']}: {first[0]['text'][:100]}" if first else "no block"
        say(f"{query.filled}: first {best}")
    say(f"page: {out / PAGE}")
    say(f"scores: {out / SCORES}")


def _products(
    queries: Sequence[Query],
    snapshots: Mapping[float, Path],
    text: Text,
    cache: Cache,
    console: Console,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the products (Q, S, B), and the queries' losses (Q, S), with a bar for the time."""
    machine = Machine.of(Device.auto, None, Precision.fp32)
    total, done = len(queries) * len(snapshots) * len(text.places), 0
    found, losses = [], []
    with Display(console, {_STAGE: float(total)}) as show:
        for share, place in snapshots.items():

            def advance(num_places: int, seconds: float | None, share: float = share) -> None:
                nonlocal done
                done += num_places
                sizes = f"{len(queries)} queries, {len(text.blocks_B):,} blocks"
                where = f"{sizes}, the student after {share:.0%} of its training"
                show.update(_STAGE, done / total, where, seconds)

            of_share = Products(text, cache, machine.device, advance).at(place, queries)
            found.append(of_share[0])
            losses.append(of_share[1])
    return np.stack(found, axis=1), np.array(losses).T
