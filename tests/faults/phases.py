"""The phases in which commands are killed: what is typed, what is there, and when it dies."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.older import COMMON, kill
from tests.miniature import write_text
from tests.processes import Started

LONGER = (
    *("scale.max_steps=24", "scale.teacher_steps=12", "scale.eval_every=6"),
    *("train.checkpoint_every=2", "eval.num_blocks=32", "launch.device=cpu"),
)
TRAIN = ["dwt-train", *COMMON, *LONGER]
RANKS = ["launch=torchrun", "launch.gpus=2"]
CACHED = ["signal=top_k", "objective=top_k", "signal.num_entries=16"]
GROWN = ["-cn", "grades", "chain.teacher=model", "chain.layers=[2,3]"]


@dataclass(frozen=True)
class Phase:
    """A phase of a command, which is killed in it.

    before: what of `prepared` is there. sign: a pattern of what appears when the phase begins; it
    dies up to so many seconds after that. None: at any share of the time that it takes undisturbed.
    """

    words: list[str]
    before: Callable[[Path, Path], None]
    sign: str | None = None
    after_s: float = 0.0


def _text(source: Path, place: Path) -> None:
    write_text(place / "text")


def _corpus(source: Path, place: Path) -> None:
    _text(source, place)
    shutil.copytree(source / "cache" / "corpus", place / "cache" / "corpus")


def teacher(source: Path, place: Path) -> None:
    _corpus(source, place)
    shutil.copytree(source / "cache" / "teacher", place / "cache" / "teacher")


def _run(source: Path, place: Path) -> None:
    """A finished run by the name of ``run``, its model as ``model``, and a query of it."""
    teacher(source, place)
    (run,) = (source / "runs").glob("small-*")
    shutil.copytree(run, place / "run")
    shutil.copytree(run / "model", place / "model")
    query = {"text": "bark [MASK] dark.", "answer": "delin", "instead": "mum"}
    (place / "queries.jsonl").write_text(json.dumps(query) + "\n")


def _stopped(source: Path, place: Path) -> None:
    """The run as it was killed after step 22."""
    teacher(source, place)
    shutil.copytree(source / "runs", place / "runs")
    for run in (place / "runs").glob("small-*"):
        kill(run, "step-00000024")


_OWN = ("scale.vocab_size", "scale.teacher_steps", "student.num_layers")
"""Settings that follow from the chain."""
_LENGTHS = ("scale.max_steps", "scale.eval_every", "train.checkpoint_every", "eval.num_blocks")
LADDER = [
    *("dwt-advise", *(word for word in TRAIN[1:] if not word.startswith(_LENGTHS))),
    *("teacher=virtual", "eval.num_blocks=4", "advise.budget=1.25e9", "advise.share=1"),
    *("advise.seeds=1", "run.peak_tflops=1e-3"),
]
"""Two arms in three lengths, which follow from a speed that is told."""

PHASES = {
    "packing": Phase(TRAIN, _text, "cache/corpus/*.partial", 0.3),
    "teacher": Phase(TRAIN, _corpus, "cache/teacher/*.partial/metrics.jsonl", 0.8),
    "training": Phase(TRAIN, teacher, "runs/*/metrics.jsonl", 1.5),
    "checkpoint": Phase(TRAIN, teacher, "runs/*/checkpoints/.writing", 0.02),
    "end of a run": Phase(TRAIN, teacher, "runs/*/checkpoints/step-00000024", 0.6),
    "training, 2 ranks": Phase([*TRAIN, *RANKS], teacher, "runs/*/metrics.jsonl", 2.0),
    "checkpoint, 2 ranks": Phase([*TRAIN, *RANKS], teacher, "runs/*/checkpoints/.writing", 0.05),
    "signal, 2 ranks": Phase([*TRAIN, *CACHED, *RANKS], teacher, "cache/signal/*", 1.5),
    "signal": Phase([*TRAIN, *CACHED], teacher, "cache/signal/*", 1.0),
    "evaluation": Phase(
        ["dwt-eval", "model=model", *COMMON[-8:-3], "eval.num_blocks=32"],
        _run,
    ),
    "export": Phase([*TRAIN, "run.export=true"], _stopped, "runs/*/.export", 0.1),
    "study": Phase([*TRAIN, "-m", "seed=0,1", "teacher=none"], _corpus),
    "chain": Phase(["dwt-train", *GROWN, *(w for w in TRAIN[1:] if not w.startswith(_OWN))], _run),
    "advice": Phase(LADDER, _corpus),
    "trace": Phase(shlex.split("dwt-trace run queries.jsonl --cache cache --out trace"), _run),
}


def prepare(place: Path) -> None:
    """Carry out what the phases begin with: a run, its text and its teacher."""
    write_text(place / "text")
    started = Started([*TRAIN, "eval.at=[0,0.5,1]"], place)
    assert started.ended() == 0, started.output
