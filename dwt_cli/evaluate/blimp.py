"""Minimal pairs: does a model find the good sentence likelier than the bad one? Zero-shot.

BLiMP (Warstadt et al. 2020, 1912.00582): 67 paradigms of 1,000 pairs that differ in one point of
grammar. The task says how likely a sentence is.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.evaluate.measurement import EvaluatedModel, Say, Score
from dwt_cli.evaluate.options import Blimp
from dwt_cli.evaluate.sentences import encode
from dwt_cli.models.options import Head
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.likelihoods import Sentence
from dwt_cli.tasks.task import Targets
from dwt_cli.training.compiling import KeptCode

NUM_PARADIGMS = 67
_WORTH_COMPILING = 10_000  # pairs of a masked model; a causal one's many lengths are slower then


class Pair(NamedTuple):
    """One line of BLiMP's files: two sentences, and the three names under which they count."""

    sentence_good: str
    sentence_bad: str
    UID: str
    linguistics_term: str
    field: str


def scores(tested: EvaluatedModel, options: Blimp, say: Say) -> list[Score]:
    """Return accuracy overall and by field, in detail by term and paradigm; means over paradigms.

    The standard error is that of the pairs; the paradigms are taken as given.
    """
    pairs = read(options, say)
    texts = [pair.sentence_good for pair in pairs] + [pair.sentence_bad for pair in pairs]
    sentences, remarks = encode(tested, texts)
    model = tested.language_model
    compiles = len(pairs) >= _WORTH_COMPILING and tested.task.head is Head.masked
    targets = tested.task.targets(tested.tokenizer)
    with _compiled(model, tested, say) if compiles else nullcontext():
        good, bad = np.split(log_likelihoods(model, sentences, targets, tested.device), 2)
    hits: dict[str, list[bool]] = defaultdict(list)
    groups: dict[str, set[str]] = defaultdict(set)
    details = set()
    for pair, hit in zip(pairs, good > bad, strict=True):
        hits[pair.UID].append(hit)
        for name in ("", f"/{pair.field}", f"/{pair.linguistics_term}", f"/{pair.UID}"):
            groups[f"blimp{name}"].add(pair.UID)
        details |= {f"blimp/{pair.linguistics_term}", f"blimp/{pair.UID}"}
    if num_ties := int((good == bad).sum()):
        remarks = (f"{num_ties:,} ties count as wrong", *remarks)
    if len(hits) != NUM_PARADIGMS:
        remarks = (f"{len(hits)} of {NUM_PARADIGMS} paradigms", *remarks)
    found = []
    for task, uids in groups.items():
        paradigms = [hits[uid] for uid in sorted(uids)]
        variances = [float(np.var(each)) / len(each) for each in paradigms]
        found.append(
            Score(
                task,
                "accuracy",
                float(np.mean([float(np.mean(each)) for each in paradigms])),
                sqrt(sum(variances)) / len(paradigms),
                sum(map(len, paradigms)),
                baselines={"chance": 0.5},
                remarks=remarks if task == "blimp" else (),
                is_detail=task in details,
            )
        )
    return found


@contextmanager
def _compiled(model: LanguageModel, tested: EvaluatedModel, say: Say) -> Iterator[None]:
    """Compile a model for blocks of any size; the code is kept for the next time."""
    with KeptCode.of(model, Machine(tested.device, tested.dtype), say, shape="any") as code:
        model.compile(dynamic=True)
        try:
            yield
            code.keep()
        finally:  # what comes later is not compiled into the folder of others
            model._compiled_call_impl = None


@torch.inference_mode()
def log_likelihoods(
    model: LanguageModel, sentences: Sequence[Sentence], targets: Targets, device: torch.device
) -> NDArray[np.float64]:
    """Return log p in nats of each sentence; the same one has the same wherever it stands."""
    distinct = list(dict.fromkeys(sentences))
    values = dict(zip(distinct, targets.log_likelihoods(model, distinct, device), strict=True))
    return np.array([values[sentence] for sentence in sentences])


def check(options: Blimp) -> None:
    """Raise `UserError` when there is no folder with files."""
    if options.path is None:
        raise UserError(
            "eval.blimp.path has no value: give the folder with BLiMP's .jsonl files (data/ of "
            "github.com/alexwarstadt/blimp), or leave blimp out of eval.measures"
        )
    if not _files(options):
        raise UserError(
            f"eval.blimp.path={options.path}: no .jsonl files there (looked in "
            f"{Path(options.path).expanduser().absolute()}); give the folder with BLiMP's data"
        )


def provenance(options: Blimp) -> dict[str, str]:
    """Return what determines the pairs: the sums of the files."""
    return {path.name: file_sum(path) for path in _files(options)}


def _files(options: Blimp) -> list[Path]:
    return sorted(Path(options.path or "").expanduser().glob("*.jsonl"))


def read(options: Blimp, say: Say) -> list[Pair]:
    """Return the first ``num_pairs`` of every file; one that cannot be read is left out, aloud.

    Raises `UserError` when no pair is left.
    """
    files = _files(options)
    pairs: list[Pair] = []
    for file in files:
        try:
            with file.open(encoding="utf-8") as lines:
                pairs += [
                    _pair(line, number)
                    for number, line in enumerate(islice(lines, options.num_pairs), start=1)
                ]
        except (OSError, ValueError) as error:
            say(f"eval.blimp.path: {file} is left out: {error}")
    if not pairs:
        raise UserError(
            f"eval.blimp.path={options.path}: no minimal pairs in its {len(files)} .jsonl files; "
            "give the folder with BLiMP's data"
        )
    return pairs


def _pair(line: str, number: int) -> Pair:
    try:
        row = dict(json.loads(line))
    except (TypeError, ValueError) as error:
        raise ValueError(f"line {number} is no JSON object") from error
    for column in Pair._fields:
        if not str(row.get(column) or "").strip():
            raise ValueError(f"line {number} has no {column}")
    return Pair(*(str(row[column]) for column in Pair._fields))
