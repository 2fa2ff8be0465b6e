"""A study's folder -> report.md, report.html, pictures and results.csv, all made of the record."""

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dwt_cli.base import atomic
from dwt_cli.study import figures, tables
from dwt_cli.study.comparisons import AgainstAlone, Judged, against_alone, judge
from dwt_cli.study.page import page
from dwt_cli.study.results import Cell, Results, read_results
from dwt_cli.study.statistics import RULE

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
    atomic.write_text(paths[2], tables.runs_csv(results))
    return [*paths, *(picture.path for picture in pictures.values())]


def _lines(results: Results, pictures: figures.Pictures) -> list[str]:
    study = results.study
    compared = against_alone(results)
    core = [each for each in compared if each.arm not in study.exploratory]
    exploratory = [each for each in compared if each.arm in study.exploratory]
    return [
        f"# Study: {study.name}",
        "",
        study.question,
        "",
        *_state(results),
        *_verdicts(results, judge(results)),
        *_losses(results, compared, pictures),
        *_against_alone(results, core, pictures),
        *_cost(results, pictures),
        *_crossings(results, pictures),
        *_exploratory(results, exploratory),
        *_left_out(results),
        *_section("How to read it", [f"- {line}" for line in _HOW_TO_READ]),
        *_provenance(results),
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _picture(pictures: figures.Pictures, name: str) -> list[str]:
    if name not in pictures:
        return []
    picture = pictures[name]
    return [f"![{picture.title}]({picture.path.name})", "", f"*{picture.caption}*", ""]


# ---------------------------------------------------------------------------------- the sections


def _state(results: Results) -> list[str]:
    study = results.study
    num, of = len(results.cells), len(study.jobs)
    whole = "Complete" if num == of else "Not complete"
    lines = [
        f"{whole}: {num} of {of} runs are in this report: {len(study.arms)} arms, "
        f"lengths {_listed(study.lengths)}, seeds {_listed(study.seeds)}.",
        "",
    ]
    if len(study.seeds) < 2:
        lines += ["**One seed: there are no intervals, and no claim can be decided.**", ""]
    if study.baseline is None:
        lines += ["**There is no stand-alone arm: nothing is compared with it.**", ""]
    elif results.baseline is None:
        why = f"The stand-alone arm, {study.baseline}, has no run yet: nothing is compared with it."
        lines += [f"**{why}**", ""]
    return lines


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"


def _verdicts(results: Results, judged: Sequence[Judged]) -> list[str]:
    if not judged:
        return _section("Verdicts", ["This study tests no claim: there are no verdicts."])
    rule = RULE.format(smallest_effect=results.study.smallest_effect)
    table = tables.markdown(tables.VERDICTS, tables.verdicts(judged))
    return _section("Verdicts", [*table, f"The rule, set before the runs: {rule}"])


def _losses(
    results: Results, compared: Sequence[AgainstAlone], pictures: figures.Pictures
) -> list[str]:
    if not results.cells:
        return _section("Held-out loss", ["No run is finished yet."])
    arms = [f"- {arm}: `{words}`" for arm, words in results.study.arms.items()]
    rows = tables.losses(results, compared)
    return _section(
        "Held-out loss",
        [
            "The arms, by the words that set them apart:",
            "",
            *arms,
            "",
            "At the end of each run, in nats per target token:",
            "",
            *tables.markdown(tables.losses_head(results), rows),
            *_picture(pictures, "curves"),
            *_picture(pictures, "schedules"),
        ],
    )


def _against_alone(
    results: Results, core: Sequence[AgainstAlone], pictures: figures.Pictures
) -> list[str]:
    if not core:
        return []
    return _section(
        "Against the stand-alone student",
        [
            "Arm minus stand-alone, at equal student steps and at equal FLOPs:",
            "",
            *tables.markdown(tables.AGAINST_ALONE, tables.against_alone(results, core)),
            *_picture(pictures, "teacher_quality"),
            *_picture(pictures, "progress"),
        ],
    )


def _cost(results: Results, pictures: figures.Pictures) -> list[str]:
    if results.baseline is None or not results.compared:
        return []
    rows = tables.costs(results, results.compared)
    return _section(
        "Cost to the stand-alone's final loss",
        [
            "FLOPs with which an arm ends at the stand-alone's final loss, over the stand-alone's:",
            "",
            *tables.markdown(tables.COSTS, rows),
            *_picture(pictures, "cost"),
        ],
    )


def _crossings(results: Results, pictures: figures.Pictures) -> list[str]:
    lines = []
    if rows := tables.crossings_over_lengths(results):
        head = tables.over_lengths_head(results)
        lines += ["Final losses, over the lengths:", "", *tables.markdown(head, rows)]
    if rows := tables.crossings_within_run(results):
        lines += ["Within a run:", "", *tables.markdown(tables.WITHIN_RUN, rows)]
    return _section("Where curves cross", lines) if lines else []


def _exploratory(results: Results, compared: Sequence[AgainstAlone]) -> list[str]:
    arms = results.study.exploratory
    if not arms:
        return []
    lines = [f"No verdict was planned for these: {', '.join(arms)}.", ""]
    if compared:
        lines += tables.markdown(tables.AGAINST_ALONE, tables.against_alone(results, compared))
    return _section("Exploratory arms", lines)


def _left_out(results: Results) -> list[str]:
    if not results.left_out:
        return _section("What was left out", ["Nothing."])
    table = tables.markdown(tables.LEFT_OUT, tables.left_out(results))
    return _section("What was left out", table)


# ------------------------------------------------------------------------------------ provenance


def _provenance(results: Results) -> list[str]:
    cells = results.cells
    machines = Counter(_machine(cell) for cell in cells)
    lines = [
        f"- command: `{results.study.command}`",
        f"- report written: {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
        f"- time of the runs: {_duration(machine_seconds(cells))} of training in all, a teacher "
        "that serves several students counted once",
        *(f"- machine of {num} runs: {machine}" for machine, num in machines.most_common()),
    ]
    if cells:
        lines += [
            f"- versions: {_versions(cells[0])}",
            f"- text: corpus {cells[0].summary['corpus']['fingerprint']}",
        ]
    commits = sorted({str(c.environment["commit"]) for c in cells if c.environment.get("commit")})
    if commits:
        lines.append(f"- commits: {', '.join(commits)}")
    lines += ["", "Each arm's first run; the others differ in length and seed:", ""]
    first = {job.arm: job for job in reversed(results.study.jobs)}
    for arm in results.study.arms:
        if arm in first:
            lines.append(f"- {arm}: `dwt-train {shlex.join(first[arm].words)}`")
    return _section("Provenance", lines)


def machine_seconds(cells: Sequence[Cell]) -> float:
    """Return the seconds of training: students, remapping, and each teacher once."""
    costs = [cell.summary["cost"] for cell in cells]
    students = sum(cost["student_seconds"] + cost.get("remap_seconds", 0.0) for cost in costs)
    teachers = {
        (cost["teacher_pretraining_flops"], cost.get("teacher_pretraining_seconds"))
        for cost in costs
    }
    return float(students + sum(seconds or 0.0 for _, seconds in teachers))


def _machine(cell: Cell) -> str:
    facts = [("device", ""), ("cpu_capability", ""), ("num_threads", "threads "), ("dtype", "")]
    known = [f"{label}{cell.environment[key]}" for key, label in facts if cell.environment.get(key)]
    return ", ".join(known) or "unknown"


def _versions(cell: Cell) -> str:
    python = cell.environment.get("python", "?")
    rest = (f"{name} {version}" for name, version in cell.environment.get("versions", {}).items())
    return ", ".join([f"Python {python}", *rest])


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest / 60:.1f} min"
