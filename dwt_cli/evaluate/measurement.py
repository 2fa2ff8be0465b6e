"""A model under test, its scores, and the pieces of work they come from, none done twice."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint, former_fingerprint
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.finetuning import FineTuning, FineTunings
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.labelled import LabelledTask
from dwt_cli.tasks.options import Task

_KIND, _FILE, _WORK = "scores", "scores.json", "work"

Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under test: fp32 weights, its tokenizer and its task, and its fingerprint."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    identity: str
    device: torch.device
    dtype: torch.dtype

    @property
    def language_model(self) -> LanguageModel:
        """The model with its head over the vocabulary, on its device, in eval mode."""
        return LanguageModel(self.model, self.dtype).to(self.device).eval()


@dataclass(frozen=True)
class Score:
    """One number: ``value`` of a metric on a task, in the metric's own unit.

    stderr: its standard error, over seeds where there are ``num_seeds`` of them, else over
    examples. baselines: what it is to be compared with, by name. remarks: what a reader must know.
    is_detail: for the files; the terminal's table does without it.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    num_examples: int
    num_seeds: int = 1
    baselines: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    is_detail: bool = False


Found = tuple[list[Score], dict[str, float]]
"""The scores of a piece of work, and what else is worth keeping."""


@dataclass(frozen=True)
class Results:
    """Scores of each measure, and the lines for what could not be measured, each once."""

    scores: dict[str, list[Score]]
    problems: list[str]


@dataclass(frozen=True)
class Measurement:
    """A model, what is to be measured of it, and what a measure may need besides.

    text: makes the corpus in the model's own tokens, with what identifies it, and the held-out
    batches of it. tunings: returns the ways to fine-tune it on a task, in texts of at most so many
    tokens. advance: called with how far which measure is. problems: the lines so far for
    what could not be measured.
    """

    tested: EvaluatedModel
    options: Eval
    text: Callable[[], tuple[Corpus, str, HeldoutBatches]]
    tunings: Callable[[LabelledTask, FineTuning, int], FineTunings]
    cache: Cache
    say: Say
    advance: Callable[[str, float, str], None]
    problems: list[str] = field(default_factory=list)

    def kept(
        self, name: str, identity: tuple[Any, ...], compute: Callable[[Path], Found]
    ) -> list[Score]:
        """Return the scores of a piece of work, from the cache if it has them, and say them.

        identity: what determines them, besides the model. compute: given a folder to work in,
        which outlives an interruption. The seconds are those of the process that came to its end.
        """
        tested = self.tested

        def make(folder: Path) -> None:
            started = time.perf_counter()
            found, facts = compute(folder / _WORK)
            seconds = time.perf_counter() - started
            shutil.rmtree(folder / _WORK, ignore_errors=True)
            atomic.write_json(
                folder / _FILE,
                {
                    "model": tested.identity,
                    "piece": name,
                    "scores": [dataclasses.asdict(score) for score in found],
                    "facts": facts | {"seconds": seconds},
                },
            )

        parts = (tested.identity, str(tested.dtype), *identity)
        found_by = self.cache.kept_as(_KIND, fingerprint(*parts), former_fingerprint(*parts))
        folder = self.cache.get(_KIND, found_by, make, {"options": {"name": name}})
        kept = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        scores = [Score(**each | {"remarks": tuple(each["remarks"])}) for each in kept["scores"]]
        told = [score for score in scores if not score.is_detail]
        words = [f"{score.task} {score.metric} {score.value:.4f}" for score in told]
        if "padding" in kept["facts"]:
            words.append(f"padding {kept['facts']['padding']:.1%}")
        self.say(f"{name}: {', '.join(words)}, {kept['facts']['seconds']:.1f} s")
        return scores
