"""A piece of an evaluation: what is computed and kept as one, and never computed twice."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint, former_fingerprint
from dwt_cli.evaluate.score import EvaluatedModel, Report, Score

_KIND, _FILE, _WORK = "scores", "scores.json", "work"


class Found(NamedTuple):
    """The scores of a piece, and what else is worth keeping."""

    scores: list[Score]
    facts: Report


@dataclass(frozen=True)
class Piece:
    """name: for readers. identity: what determines the scores, besides the model.

    compute: given a folder to work in, which outlives an interruption. Both may raise `UserError`.
    """

    name: str
    identity: Callable[[], tuple[Any, ...]]
    compute: Callable[[Path], Found]


def cached_scores(piece: Piece, tested: EvaluatedModel, cache: Cache) -> Found:
    """Return the piece's scores, from the cache if they are known.

    Among the facts are the seconds that it took the process that came to its end.
    """

    def make(folder: Path) -> None:
        started = time.perf_counter()
        found = piece.compute(folder / _WORK)
        seconds = time.perf_counter() - started
        shutil.rmtree(folder / _WORK, ignore_errors=True)
        atomic.write_json(
            folder / _FILE,
            {
                "model": tested.identity,
                "piece": piece.name,
                "scores": [dataclasses.asdict(score) for score in found.scores],
                "facts": found.facts | {"seconds": seconds},
            },
        )

    parts = (tested.identity, str(tested.dtype), *piece.identity())
    identity = cache.kept_as(_KIND, fingerprint(*parts), former_fingerprint(*parts))
    folder = cache.get(_KIND, identity, make, {"options": {"name": piece.name}})
    kept = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return Found([score_of(score) for score in kept["scores"]], kept["facts"])


def score_of(kept: Report) -> Score:
    """Return a score as it was before it became JSON."""
    return Score(**kept | {"remarks": tuple(kept["remarks"])})
