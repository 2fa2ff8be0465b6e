"""What was forecast, kept beside study.json in forecasts.jsonl, and scored by what was trained."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dwt_cli.base import atomic
from dwt_cli.study.advice import ALONE, Advice, ranged
from dwt_cli.study.forecast import Interval
from dwt_cli.study.kept import said_by
from dwt_cli.track.metrics import read_lines

FORECASTS = "forecasts.jsonl"
_VERSION = 1  # lines of another are kept, and not read


def keep_forecast(
    folder: Path, advice: Advice, finals: Mapping[str, tuple[str, str]], commit: str | None
) -> dict[str, Any]:
    """Add a forecast to forecasts.jsonl, unless the last one says the same; return it.

    finals: of each arm the command of the whole run, and its identity. commit: of the code here.
    """
    said = {
        "version": _VERSION,
        "budget": advice.budget.text,
        "advised": advice.best.arm,
        "lengths": advice.ladder.lengths,
        "seeds": advice.seeds,
        "is_trusted": advice.is_trusted,
        "arms": {
            each.arm: {
                "command": finals[each.arm][0],
                "identity": finals[each.arm][1],
                "steps": each.steps,
                "loss": _numbers(each.loss),
                "minus_alone": _numbers(each.apart),
                "loss_of_one_run": _numbers(each.own_loss),
                "minus_alone_of_one_run": _numbers(each.own_apart),
                "was_known": _trained(folder, finals[each.arm][1]) is not None,
            }
            for each in advice.forecasts
        },
    }
    every: list[dict[str, Any]] = list(read_lines(folder / FORECASTS))
    before = [each for each in every if each.get("version") == _VERSION]
    if before and _arms_of(before[-1]) == _arms_of(said, like=before[-1]):
        return before[-1]
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    said = {"when": when, "commit": commit, **said}
    lines = [json.dumps(each) + "\n" for each in (*every, said)]
    atomic.write_text(folder / FORECASTS, "".join(lines))
    return said


def scores(root: Path) -> list[dict[str, str]]:
    """Return rows for each forecast below a folder of runs, with what came of it."""
    rows = []
    for path in sorted(root.glob(f"studies/advice-*/{FORECASTS}")):
        lines: list[dict[str, Any]] = list(read_lines(path))
        for said in lines:
            if said.get("version") != _VERSION:
                continue
            ends = {arm: _trained(path.parent, of["identity"]) for arm, of in said["arms"].items()}
            for arm, of in said["arms"].items():
                both = (ends[arm], ends.get(ALONE))
                apart = None if None in both or arm == ALONE else both[0] - both[1]  # type: ignore[operator]
                first = {
                    "advice": path.parent.name.removeprefix("advice-"),
                    "budget": said["budget"] + ("" if said["is_trusted"] else ", not trusted"),
                    "arm": arm + (" *" if arm == said["advised"] else ""),
                    "steps": f"{of['steps']:,}",
                }
                known = of["was_known"]
                rows.append(first | _scored("loss", _of_one_run(of, "loss"), ends[arm], known))
                if arm != ALONE:
                    gap = _scored("minus alone", _of_one_run(of, "minus_alone"), apart, known)
                    rows.append(dict.fromkeys(first, "") | gap)
    return rows


def _scored(
    name: str, forecast: Sequence[float | None], truth: float | None, was_known: bool
) -> dict[str, str]:
    _, low, high = forecast
    shown = Interval(*(math.nan if each is None else each for each in forecast))
    came, inside = "not trained", ""
    if truth is not None:
        came, inside = f"{truth:.3f}", "no interval"
        if low is not None and high is not None:
            inside = "yes" if low <= truth <= high else "no"
    if truth is not None and was_known:
        inside = "known before"
    return {"of": name, "forecast [90%]": ranged(shown), "came": came, "inside": inside}


def _of_one_run(of: Mapping[str, Any], name: str) -> Sequence[float | None]:
    """Return the forecast of a run that is scored; older lines have the mean's alone."""
    found: Sequence[float | None] = of.get(f"{name}_of_one_run", of[name])
    return found


def _arms_of(said: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> Any:
    """Return what is said of the arms; like: a line that may lack what is said since."""
    known = {key for of in (like or said)["arms"].values() for key in of} - {"was_known"}
    return [{key: of[key] for key in of if key in known} for of in said["arms"].values()]


def _numbers(found: Interval) -> list[float | None]:
    return [None if math.isnan(each) else round(each, 6) for each in asdict(found).values()]


def _trained(folder: Path, identity: str) -> float | None:
    """Return the held-out loss of the finished run with an identity; None: there is none."""
    for place in sorted(folder.parent.parent.glob(f"*-{identity}")):
        if said := said_by(place):
            heldout = (said["summary"].get("student") or {}).get("heldout") or {}
            if (loss := heldout.get("loss")) is not None:  # a run that diverged has none
                return float(loss)
    return None
