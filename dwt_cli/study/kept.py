"""runs.jsonl: a study in one small file, which goes where its runs' folders do not.

Its first line is the study, as study.json has it; each other line is what a finished run says.
A report needs nothing else, and a run that is in it is not trained again. What training losses,
policies and other measures came to is there for whoever asks more than a report does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwt_cli.base import atomic, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.home import without_home
from dwt_cli.base.identity import plain
from dwt_cli.study.record import RUNS, StudyRecord
from dwt_cli.track.metrics import heldout_losses, read_lines, read_settings

Said = Mapping[str, Any]
"""What a run says, as JSON values: summary, environment and settings, as far as a report needs
them; curve: (step, held-out loss); weights: (share of the run, alpha_hard, alpha_soft), thinned;
train: by metric of the training (step, value), at the first step and those of the curve."""

_NUM_WEIGHTS = 100  # points of a schedule, as many as a picture can show
_NOT_ITS_OWN = ("samples", "stand_alone", "equal_flops", "comparison", "cost")
_NOT_KEPT = ("progress", "alpha_hard", "alpha_soft", "lr", "tokens", "tokens_per_s", "elapsed_s")
_SETTINGS = ("task", "student", "tuning", "optim", "train", "eval")


def said_by(run: Path) -> Said | None:
    """Return what a run's folder says; None unless it is finished."""
    if (summary := read_json(run / "summary.json")) is None:
        return None
    lines, settings = read_lines(run / "metrics.jsonl"), read_settings(run)
    weights = [
        (line["train/progress"], line["train/alpha_hard"], line.get("train/alpha_soft", 0.0))
        for line in lines
        if "train/alpha_hard" in line
    ]
    curve = heldout_losses(lines)
    steps = {1, *(step for step, _ in curve)}
    train: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items() if line["step"] in steps else ():
            room, _, metric = name.partition("/")
            if room == "train" and metric not in _NOT_KEPT and value is not None:
                train.setdefault(metric, []).append((line["step"], float(f"{value:.4g}")))
    text = summary.get("corpus", {})
    source = {key: value for key, value in text.get("provenance", {}).items() if key != "files"}
    if source:  # its files are told apart by the fingerprint
        summary = summary | {"corpus": text | {"provenance": source}}
    every = max(1, len(weights) // _NUM_WEIGHTS)
    weights = [*weights[::every], *(weights[-1:] if (len(weights) - 1) % every else [])]
    return {
        "summary": {key: value for key, value in summary.items() if key not in _NOT_ITS_OWN},
        "environment": read_json(run / "environment.json") or {},
        "settings": without_home(
            {name: settings[name] for name in _SETTINGS if settings.get(name)}
        ),
        "curve": curve,
        "weights": [[float(f"{number:.4g}") for number in each] for each in weights],
        "train": train,
    }


def read_kept(folder: Path) -> dict[str, Said]:
    """Return what the runs in a study's runs.jsonl say, by identity; empty without one."""
    lines: list[dict[str, Any]] = list(read_lines(folder / RUNS))
    return {line["summary"]["identity"]: line for line in lines if "summary" in line}


def kept_run(root: Path, identity: str) -> Said | None:
    """Return what a run says in the runs.jsonl of some study below a folder of runs, or None."""
    for path in sorted(root.glob(f"studies/*/{RUNS}")):
        with path.open(encoding="utf-8") as lines:
            for line in filter(lambda each: identity in each, lines):  # few are worth parsing
                said = json.loads(line)
                if said.get("summary", {}).get("identity") == identity:
                    return dict(said)
    return None


def keep(folder: Path, study: StudyRecord, anew: str | None = None) -> None:
    """Write the finished runs of a study that are not there yet into its runs.jsonl.

    In one piece, and no line of another process that does so is lost. anew: the identity of a run
    whose line may be there, and is old.
    """
    with locks.take(folder / f".{RUNS}.lock", timeout_s=-1):
        kept = read_kept(folder)
        for job in study.jobs:
            is_new = job.identity == anew or job.identity not in kept
            if is_new and job.folder and (said := said_by(folder / job.folder)):
                kept[said["summary"]["identity"]] = said
        lines = [json.dumps(each) + "\n" for each in (plain(study), *kept.values())]
        atomic.write_text(folder / RUNS, "".join(lines))
