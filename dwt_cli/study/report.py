"""A study's folder -> report.md, report.html, pictures and results.csv, all made of the record."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Column, Table

from dwt_cli.base import atomic
from dwt_cli.study import figures, tables
from dwt_cli.study.comparisons import losses_apart
from dwt_cli.study.page import page
from dwt_cli.study.results import Results, read_results
from dwt_cli.study.statistics import RULE, difference
from dwt_cli.track.display import plain_line

_HOW_TO_READ = (
    "**Held-out loss** is in nats per target token, on text that no run has seen; lower is better. "
    "A difference is the arm minus the other one, so below 0 the arm is better.",
    "**Pairs.** Arms of one seed share text, batches and the initial student; differences are "
    "taken seed by seed, and the interval in brackets is Student's t over seeds at 95%. Where it "
    "spans 0, nothing is decided. With one seed there is no interval.",
    "**Equal FLOPs.** The stand-alone student gets what the arm costs in all: its own FLOPs and "
    "the teacher's forward passes; then the teacher's pre-training and what remapping learned, "
    "too. That is charged to each student in full, although a teacher may serve many. Its loss at "
    "that budget is interpolated, linearly in the logarithm of its steps, over stand-alone "
    "students of several lengths, each with a learning-rate schedule of its own. Nothing is "
    "extrapolated.",
    "**Cost to the stand-alone's loss** is interpolated in the same way over the arm's own "
    "lengths: 0.80 means that it takes 80% of the stand-alone's FLOPs. `< 0.80`: its shortest run, "
    "at that cost, is already there; `> 1.20`: its longest, at that cost, is not.",
    f"**{tables.AHEAD}** marks a teacher that is itself better than the stand-alone student of "
    "that length and seed: this is no longer distillation from a weak teacher.",
    "**Crossings** are changes of sign of the mean difference, over the seeds that are there at "
    "every point. Within a run the learning rate is still high: a lead there is none at the end.",
)


def write_report(folder: Path, results: Results | None = None) -> list[Path]:
    """Write the report of a study into its folder. Returns the paths, report.html first.

    Works on a study that is half done. results: what was read of the folder, if it was.
    Raises `UserError` for a folder that is no study's.
    """
    results = results or read_results(folder)
    pictures = figures.draw(results, folder)
    text = "\n".join(_lines(results, pictures)) + "\n"
    paths = [folder / name for name in ("report.html", "report.md", "results.csv")]
    atomic.write_text(paths[0], page(text, results.study.name, folder))
    atomic.write_text(paths[1], text)
    atomic.write_text(paths[2], tables.runs_table(results).to_csv(index=False))
    return [*paths, *pictures.values()]


def print_report(console: Console, results: Results, paths: Sequence[Path]) -> None:
    """Print the verdicts, or without claims the means; what is missing, and the places."""
    study, shown = results.study, tables.verdicts(results)
    say = plain_line(console)
    if len(shown):
        shown = shown[["claim", "length", "difference [95%]", "verdict"]]
    else:
        say(f"{study.name} tests no claim: there are no verdicts")
        shown = tables.means(results)
    if len(shown):
        title = ": ".join(filter(None, [study.name, study.question]))
        columns = [Column(heading, overflow="fold") for heading in shown]
        table = Table(*columns, title=title, title_justify="left")
        for row in shown.astype(str).to_numpy():
            table.add_row(*row)
        console.print(table)
    say(in_short(results))
    say(f"{len(results.runs)} of {len(study.jobs)} runs are in the report")
    if len(results.left_out):
        say("the report says what was left out, and why")
    for path in paths:
        say(f"{path.suffix.lstrip('.')}: {path}")


def _lines(results: Results, pictures: Mapping[str, Path]) -> list[str]:
    """Return the report without the sections that have no line, and pictures that are not drawn."""
    study = results.study

    def drawn(*names: str) -> list[str]:
        lines = []
        for name in (name for name in names if name in pictures):
            _, title, caption = figures.DRAWINGS[name]
            lines += [f"![{title}]({pictures[name].name})", "", f"*{caption}*", ""]
        return lines

    sections = {
        "Verdicts": _verdicts(results),
        "Held-out loss": _losses(results, drawn("curves", "schedules")),
        "Against the stand-alone student": _table(
            "Arm minus stand-alone, at equal student steps and at equal FLOPs:",
            tables.beside_alone(results, is_exploratory=False),
            drawn("teacher_quality", "progress"),
        ),
        "Cost to the stand-alone's final loss": _table(
            "FLOPs with which an arm ends at the stand-alone's final loss, over the stand-alone's:",
            tables.costs(results),
            drawn("cost"),
        ),
        "Where curves cross": [
            *_table("Final losses, over the lengths:", tables.crossings_over_lengths(results)),
            *_table("Within a run:", tables.crossings_within_run(results)),
        ],
        "Exploratory arms": _table(
            f"No verdict was planned for these: {', '.join(study.exploratory)}.",
            tables.beside_alone(results, is_exploratory=True),
            is_needed=bool(study.exploratory),
        ),
        "What was left out": tables.markdown(tables.left_out(results)) or ["Nothing."],
        "How to read it": [f"- {line}" for line in _HOW_TO_READ],
        "Provenance": _provenance(results),
    }
    lines = [f"# Study: {study.name}", "", in_short(results), "", *_models_and_text(results)]
    lines += [study.question, "", *_state(results)]
    for title, content in sections.items():
        if content:
            lines += [f"## {title}", "", *content, ""]
    return lines


def in_short(results: Results) -> str:
    """Return what came out in one sentence: the best arm at the greatest length that has one."""
    runs, base = results.runs, results.baseline
    if runs.empty:
        return "Nothing has come out yet: no run is finished."
    found = {}
    for length in sorted(runs.length.unique() if base else [], reverse=True):
        gaps = {arm: losses_apart(results, arm, str(base), length) for arm in results.compared}
        found = {arm: d for arm, gap in gaps.items() if (d := difference(gap))}
        if found:
            break
    if not found:
        ends = runs[runs.length == runs.length.max()].groupby("arm").heldout_loss.mean()
        lowest = f"{ends.idxmin()} ends lowest, at {ends.min():.3f} nats"
        return f"{lowest}; there is no stand-alone student beside an arm to compare with."
    arm, best = min(found.items(), key=lambda each: each[1].mean)
    num_below = sum(each.mean < 0 for each in found.values())
    ahead = f"{num_below} of {len(found)} arms {'end' if num_below > 1 else 'ends'}"
    ahead = ahead if num_below else "no arm ends"
    sure = "one seed: it may be chance"
    if best.low is not None and best.high is not None:
        is_sure = best.low > 0 or best.high < 0
        sure = f"95% interval {best.low:+.3f} to {best.high:+.3f} over {best.num_pairs} seeds"
        sure += "" if is_sure else ": it may be chance"
    side = "below" if best.mean < 0 else "above"
    return (
        f"At length {length}, {ahead} below the stand-alone student; the best, {arm}, "
        f"ends {abs(best.mean):.3f} nats {side} it ({sure})."
    )


def _models_and_text(results: Results) -> list[str]:
    """Return the sizes of the students and teachers, by arm, and the text."""

    def sizes(column: str) -> str:
        known = results.runs.drop_duplicates(["arm", column]).dropna(subset=column)
        by_size = known.groupby(column, sort=False).arm.agg(", ".join)
        rounded = [EngFormatter(places=2)(size) for size in by_size.index]
        if len(rounded) > 1:
            rounded = [f"{n} ({arms})" for n, arms in zip(rounded, by_size, strict=True)]
        return ", ".join(rounded) or "none"

    if results.runs.empty:
        return []
    return [
        f"Parameters: student {sizes('parameters')}; teacher {sizes('teacher_parameters')}. "
        f"Text: {results.runs.text_facts.iloc[0]}.",
        "",
    ]


def _table(
    heading: str, table: pd.DataFrame, then: Sequence[str] = (), is_needed: bool = False
) -> list[str]:
    """Return a heading, a table and what follows it; nothing for an empty table."""
    if table.empty and not is_needed:
        return []
    return [heading, "", *tables.markdown(table), *then]


def _state(results: Results) -> list[str]:
    study = results.study
    num, of = len(results.runs), len(study.jobs)
    idle = study.arms.keys() - {job.arm for job in study.jobs}
    whole = "Complete" if num == of and not idle else "Not complete"
    lengths, seeds = (", ".join(map(str, of)) or "none" for of in (study.lengths, study.seeds))
    remarks = [
        f"{whole}: {num} of {of} runs are in this report: {len(study.arms) - len(idle)} of "
        f"{len(study.arms)} arms, lengths {lengths}, seeds {seeds}."
    ]
    if idle:
        remarks.append(f"**No run of these arms was asked for: {', '.join(sorted(idle))}.**")
    if len(study.seeds) < 2:
        remarks.append("**One seed: there are no intervals, and no claim can be decided.**")
    if study.baseline is None:
        remarks.append("**There is no stand-alone arm: nothing is compared with it.**")
    elif results.baseline is None:
        why = f"The stand-alone arm, {study.baseline}, has no run yet: nothing is compared with it."
        remarks.append(f"**{why}**")
    return [line for remark in remarks for line in (remark, "")]


def _verdicts(results: Results) -> list[str]:
    table = tables.verdicts(results)
    if table.empty:
        return ["This study tests no claim: there are no verdicts."]
    rule = RULE.format(smallest_effect=results.study.smallest_effect)
    return [*tables.markdown(table), f"The rule, set before the runs: {rule}"]


def _losses(results: Results, pictures: Sequence[str]) -> list[str]:
    if results.runs.empty:
        return ["No run is finished yet."]
    return [
        "The arms, by the words that set them apart:",
        "",
        *(f"- {arm}: `{words}`" for arm, words in results.study.arms.items()),
        "",
        "At the end of each run, in nats per target token:",
        "",
        *tables.markdown(tables.losses(results)),
        *pictures,
    ]


def _provenance(results: Results) -> list[str]:
    runs, study = results.runs, results.study
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    lines = [
        f"- command: `{study.command}`",
        f"- report written: {written}",
        f"- time of the runs: {_duration(machine_seconds(runs))} of training in all, a teacher "
        "that serves several students counted once",
    ]
    for machine, num in runs.machine.value_counts().items():
        lines.append(f"- machine of {num} runs: {machine}")
    if len(runs):
        versions = ", ".join(f"{name} {version}" for name, version in runs.versions.iloc[0])
        lines += [f"- versions: {versions}", f"- text: corpus {runs.text.iloc[0]}"]
    if commits := sorted(set(runs.commit.dropna())):
        lines.append(f"- commits: {', '.join(commits)}")
    lines += ["", "Each arm's first run; the others differ in length and seed:", ""]
    first = {job.arm: shlex.join(job.words) for job in reversed(study.jobs)}
    lines += [f"- {arm}: `dwt-train {first[arm]}`" for arm in study.arms if arm in first]
    return lines


def machine_seconds(runs: pd.DataFrame) -> float:
    """Return the seconds of training: students, remapping, and each teacher once."""
    teachers = runs.drop_duplicates(["teacher_flops", "teacher_seconds"])
    seconds = runs.student_seconds.sum() + runs.remap_seconds.sum()
    return float(seconds + teachers.teacher_seconds.sum())


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest / 60:.1f} min"
