"""The runs of a study as one frame: what is there, and what was left out and why."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dwt_cli.base.home import without_home
from dwt_cli.base.identity import counted
from dwt_cli.evaluate.options import Eval
from dwt_cli.study.compute import Account, Points, flops
from dwt_cli.study.kept import Said, read_kept, said_by
from dwt_cli.study.record import Job, StudyRecord, read_study
from dwt_cli.track.summary import Summary, heldout_masks
from dwt_cli.training.options import Train

Versions = tuple[tuple[str, str], ...]
_LENGTH = ("max_steps", "epochs", "max_minutes", "every")
_NUMBERS = (
    *(
        "parameters",
        "layer_parameters",
        "teacher_parameters",
        "steps",
        "tokens",
        "epochs",
        "taught",
    ),
    *("heldout_loss", "teacher_heldout_loss"),
    *(account.column for account in Account),
    *(
        "flops_teacher_forward",
        "student_seconds",
        "remap_seconds",
        "teacher_flops",
        "teacher_seconds",
    ),
)
_COLUMNS = (
    *("arm", "length", "seed", "identity", "folder", "words", "left_out", "curve_left_out"),
    *_NUMBERS,
    *(
        "is_alone",
        "is_grown",
        "settings",
        "text",
        "text_formerly",
        "text_facts",
        "masks",
        "versions",
    ),
    *("machine", "commit", "began", "curve", "weights", "left_at", "biased", "is_cached"),
)


@dataclass(frozen=True)
class Results:
    """A study, and a frame of its jobs, in their order; what is not known is null.

    Columns beside those of `Job` and the numbers of `Summary`: left_out, curve_left_out: why the
    run, or its curve, is not in the figures. is_alone: nobody teaches it, and nothing is remapped;
    is_grown: something is. layer_parameters: all but the table of tokens. taught: the share of the
    steps in which a teacher is heard.
    settings: what is recorded of a student, its training and its evaluation and is part of an
    identity, but length and seed, as JSON. masks: of the held-out text, in words. text_facts: where
    the text is from and how long it is, in words. versions: `Versions` of the libraries. curve:
    (step, held-out loss) of every evaluation. weights: (share of the run, alpha_hard, alpha_soft),
    thinned. left_at: the step that alpha=crossover found. teacher_heldout_loss, teacher_parameters:
    null of a teacher that is no model, too. is_cached: whether the teacher that was heard was asked
    once; null where none was. began: when, in UTC; null of older runs.
    """

    study: StudyRecord
    jobs: pd.DataFrame

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The jobs whose runs are in the figures, in the order of the study's arms."""
        arms = list(self.study.arms)
        kept = self.jobs[self.jobs.left_out.isna()]
        types = {"length": int, "seed": int, **dict.fromkeys(("is_alone", "is_grown"), bool)}
        types |= dict.fromkeys(_NUMBERS, float)
        places = kept.arm.map(arms.index)
        return kept.astype(types).assign(place=places).sort_values(["place", "length", "seed"])

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The evaluations: arm, length, seed, steps and tokens (of the run), step, share, loss."""
        runs = self.runs[["arm", "length", "seed", "steps", "tokens", "curve"]]
        each = runs.explode("curve", ignore_index=True).dropna(subset="curve")
        points = pd.DataFrame(each.pop("curve").tolist(), each.index, ["step", "loss"])
        return each.join(points).assign(share=points.step / each.steps)

    @property
    def left_out(self) -> pd.DataFrame:
        """What is not in the figures: arm, length, seed, what ("run" or "curve"), why."""
        why = {"left_out": "run", "curve_left_out": "curve"}
        named = self.jobs[["arm", "length", "seed", *why]].rename(columns=why)
        return named.melt(["arm", "length", "seed"], var_name="what", value_name="why").dropna()

    def of(self, arm: str, length: int) -> pd.DataFrame:
        """Return the runs of an arm at a length, by seed."""
        return self.runs[(self.runs.arm == arm) & (self.runs.length == length)].set_index("seed")

    @cached_property
    def baseline(self) -> str | None:
        """The baseline arm if any of its runs is there."""
        return self.study.baseline if (self.runs.arm == self.study.baseline).any() else None

    @cached_property
    def stand_alone(self) -> set[str]:
        """The arms whose runs are points of the stand-alone student, the baseline first of all.

        Nobody teaches them, nothing is remapped, and all but the length is as in the baseline.
        """
        runs = self.runs
        alike = runs.settings.isin(runs.settings[runs.arm == self.baseline])
        arms = set(runs.arm[runs.is_alone & alike]) - set(runs.arm[~runs.is_alone])
        return arms | ({self.baseline} if self.baseline else set())

    @property
    def compared(self) -> list[str]:
        """The arms that are not the stand-alone student, in the study's order."""
        return [arm for arm in self.study.arms if arm not in self.stand_alone]

    def points(self, arms: set[str], seed: int, account: Account = Account.STUDENT) -> Points:
        """(FLOPs, held-out loss) of what is trained in these arms, at each of its lengths."""
        runs = self.runs[self.runs.arm.isin(arms) & (self.runs.seed == seed)]
        known = runs.drop_duplicates(account.column)[[account.column, "heldout_loss"]].dropna()
        return sorted(known.itertuples(index=False, name=None))


def read_results(folder: Path) -> Results:
    """Everything of a study that can be used. Raises `UserError` for no study's folder.

    The disk is believed before runs.jsonl and study.json: a run whose summary is whole is finished.
    Only runs on the text, with the masks and with the versions that most have are compared.
    """
    study, travelled = read_study(folder), read_kept(folder)
    rows = [_row(folder, job, travelled) for job in study.jobs]
    used = [row for row in rows if not row["left_out"]]
    today = {row["text_formerly"]: row["text"] for row in used}
    for row in used:
        row["text"] = today.get(row["text"], row["text"])
    instead = "{} instead of {}".format
    kinds = {"text": instead, "masks": instead, "versions": _versions_differ}
    for column, differ in kinds.items():
        kept = [row for row in rows if not row["left_out"]]
        counts = Counter(row[column] for row in kept)
        for row in kept:
            usual = counts.most_common(1)[0][0]  # of equally many, the one that comes first
            if row[column] != usual:
                what = "held-out masks" if column == "masks" else column
                why = f"{differ(row[column], usual)}: it cannot be compared"
                row["left_out"] = f"other {what} than most runs: {why}"
    _share_answers([row for row in rows if not row["left_out"]])
    return Results(study, pd.DataFrame(rows, None, _COLUMNS, object))


def _share_answers(rows: Sequence[dict[str, Any]]) -> None:
    """Charge what a teacher was asked once for, by arms of a length and a seed, to them together.

    Each pays in proportion to what it hears, and all of them what is asked most. The accounts of
    rows are changed.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["signal"]:
            groups.setdefault((row["signal"]["identity"], row["length"], row["seed"]), []).append(
                row
            )
    for group in groups.values():
        asked = [row["signal"]["flops"] for row in group]
        if None in asked:  # of a server, nobody knows
            continue
        saved = 1 - max(asked) / sum(asked) if any(asked) else 0.0
        for row, own in zip(group, asked, strict=True):
            for account in (Account.FORWARD, Account.WHOLE):
                row[account.column] -= own * saved


def _versions_differ(this: Versions, usual: Versions) -> str:
    here, there = dict(this), dict(usual)
    return ", ".join(
        f"{name} {here.get(name, 'unknown')} instead of {there.get(name, 'none')}"
        for name in sorted(there.keys() | here.keys())
        if here.get(name) != there.get(name)
    )


def _row(folder: Path, job: Job, kept: Mapping[str, Said]) -> dict[str, Any]:
    """Return a job and the run that it is, as a row of `Results.jobs`."""
    row = {**vars(job), "words": " ".join(job.words), "left_out": None}
    place = None if job.folder is None else folder / job.folder
    said = (said_by(place) if place else None) or kept.get(job.identity or "")
    if said is None:
        return row | {"left_out": _unfinished(job, place)}
    try:
        return row | _of_run(job, Summary.from_json(said["summary"]), said)
    except KeyError as error:
        return row | {"left_out": f"its summary.json lacks {error.args[0]}"}


def _unfinished(job: Job, place: Path | None) -> str:
    if place and (place / "summary.json").exists():
        return "its summary.json is half-written"
    if job.state == "failed":
        return f"failed: {job.error or 'nothing was said'}"
    if place is None or job.state == "missing":
        return "has not been run"
    if not place.is_dir():
        return "its folder is gone"
    return "is running" if job.state == "running" else "has no summary.json: it did not finish"


def _of_run(job: Job, summary: Summary, said: Said) -> dict[str, Any]:
    """Return what a run says, or why it is not used."""
    student, cost, text, left_out = summary.student, summary.cost, summary.corpus, None
    if job.identity not in (None, summary.identity):
        left_out = f"its folder holds another run, {summary.identity}"
    elif student.loss is None or not math.isfinite(student.loss):
        left_out = "its held-out loss is not finite: it has diverged"
    teacher = summary.teacher if summary.teacher and summary.teacher.parameters else None
    is_heard = student.signal or (teacher and any(soft for *_, soft in said["weights"]))
    losses, curve_left_out = said["curve"], None
    if not losses or losses[-1][0] != student.steps:
        end = f"ends at step {losses[-1][0]}" if losses else "is not there"
        curve_left_out = f"its metrics.jsonl {end}"
    environment, settings = said["environment"], said["settings"]
    versions = {"Python": environment.get("python"), **environment.get("versions", {})}
    facts = [("device", ""), ("cpu_capability", ""), ("num_threads", "threads "), ("dtype", "")]
    machine = [f"{label}{environment[key]}" for key, label in facts if environment.get(key)]
    return {
        "left_out": left_out,
        "curve_left_out": curve_left_out,
        "steps": student.steps,
        "tokens": student.tokens,
        "epochs": student.epochs,
        "heldout_loss": student.loss,
        "parameters": student.parameters,
        "teacher_heldout_loss": teacher and teacher.heldout.get("loss"),
        "teacher_parameters": teacher and teacher.parameters,
        "is_alone": summary.teacher is None and student.remap is None,
        "is_grown": student.remap is not None,
        "layer_parameters": _layers(student.parameters, settings.get("student") or {}, text),
        "taught": None if student.num_taught is None else student.num_taught / (student.steps or 1),
        **flops(cost),
        "flops_teacher_forward": cost["teacher_forward_flops"],
        "student_seconds": student.seconds,
        "remap_seconds": cost["remap_seconds"],
        "teacher_flops": cost["teacher_pretraining_flops"],
        "teacher_seconds": cost["teacher_pretraining_seconds"],
        "curve": tuple(map(tuple, losses)),
        "weights": tuple(map(tuple, said["weights"])),
        "signal": student.signal,
        "biased": bool(student.signal and student.signal.get("biased")),
        "is_cached": bool(student.signal) if is_heard else None,
        "left_at": student.crossing and student.crossing["step"],
        "settings": _settings(settings),
        "masks": heldout_masks(settings),
        "text": text["fingerprint"],
        "text_formerly": text.get("formerly"),
        "text_facts": ", ".join(_of_text(text, summary.choices, settings)),
        "versions": tuple((name, version) for name, version in versions.items() if version),
        "machine": ", ".join(machine) or "unknown",
        "commit": environment.get("commit"),
        "began": environment.get("began"),
    }


def _layers(num: int, made: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    """Return the parameters without the table of tokens, which is the head's, too."""
    width, vocabulary = made.get("width"), made.get("vocab_size") or text.get("vocabulary")
    return num - width * vocabulary if width and vocabulary else None


def _of_text(
    text: Mapping[str, Any], choices: Mapping[str, str], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Yield where a run's text comes from, how much of it there is, and what it is found by."""
    is_labelled, name = "train_texts" in text, (settings.get("task") or {}).get("name")
    if (group := "task" if is_labelled else "data") in choices:
        yield f"{group}={choices[group]}" + (f" task.name={name}" if is_labelled and name else "")
    if is_labelled:
        yield f"{text['train_texts']:,} labelled texts to train on"
    elif tokens := text.get("train_tokens"):
        yield f"{tokens:,} tokens to train on"
    yield f"corpus {text['fingerprint']}"


def _settings(content: Mapping[str, Any]) -> str:
    found = {group: content.get(group) or {} for group in ("task", "student", "tuning", "optim")}
    for group, kind in (("train", Train), ("eval", Eval)):
        settings = counted(kind, content.get(group) or {})
        found[group] = {key: value for key, value in settings.items() if key not in _LENGTH}
    # a setting that came later is null where it is not set
    known = {group: {k: v for k, v in of.items() if v is not None} for group, of in found.items()}
    return json.dumps(without_home(known), sort_keys=True)
