"""A study's folder -> report.md, report.html, pictures, results.csv and runs.jsonl."""

import base64
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Column, Table

from dwt_cli.base import atomic
from dwt_cli.base.templates import filled
from dwt_cli.study import figures, tables
from dwt_cli.study.comparisons import difference, losses_apart
from dwt_cli.study.kept import keep
from dwt_cli.study.record import RUNS
from dwt_cli.study.results import Results, read_results
from dwt_cli.track.display import plain_line


def write_report(folder: Path, results: Results | None = None) -> list[Path]:
    """Write the report of a study into its folder. Returns the paths, report.html first.

    Works on a study that is half done. results: what was read of the folder, if it was.
    Raises `UserError` for a folder that is no study's.
    """
    results = results or read_results(folder)
    study, runs = results.study, results.runs
    with atomic.needing_room(folder):
        pictures = figures.draw(results, folder)
    text = filled(
        __package__,
        "report.md.j2",
        results=results,
        study=study,
        runs=runs,
        tables=tables,
        in_short=in_short(results),
        sizes=lambda column: _sizes(runs, column),
        pictures=pictures,
        titles={name: title for name, (_, title) in figures.DRAWINGS.items()},
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        duration=_duration(machine_seconds(runs)),
        first={job.arm: shlex.join(job.words) for job in reversed(study.jobs)},
    )
    text = re.sub("\n{3,}", "\n\n", text)
    paths = [folder / name for name in ("report.html", "report.md", "results.csv")]
    atomic.write_text(paths[0], page(text, study.name, folder))
    atomic.write_text(paths[1], text)
    atomic.write_text(paths[2], tables.runs_table(results).to_csv(index=False))
    keep(folder, study)
    return [*paths, folder / RUNS, *pictures.values()]


def page(markdown: str, title: str, folder: Path) -> str:
    """Return Markdown and the pictures beside it as one HTML page that needs nothing else.

    Markup in the text stays text.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = reader.parse(markdown)
    for part in (part for token in tokens for part in token.children or ()):
        if part.type == "image":
            picture = (folder / Path(str(part.attrs["src"])).name).read_bytes()
            encoded = base64.b64encode(picture).decode("ascii")
            part.attrs["src"] = f"data:image/png;base64,{encoded}"
    body = reader.renderer.render(tokens, reader.options, {})
    return filled(__package__, "page.html.j2", title=title, body=body)


def print_report(console: Console, results: Results, paths: Sequence[Path]) -> None:
    """Print the verdicts, or without claims the means; what is missing, and the places."""
    study, say = results.study, plain_line(console)
    named = ("claim", "length", "difference [95%]", "verdict")
    shown = [{name: row[name] for name in named} for row in tables.verdicts(results)]
    if not shown:
        say(f"{study.name} tests no claim: there are no verdicts")
        shown = list(tables.means(results))
    if shown:
        title = ": ".join(filter(None, [study.name, study.question]))
        columns = [Column(heading, overflow="fold") for heading in shown[0]]
        table = Table(*columns, title=title, title_justify="left")
        for row in shown:
            table.add_row(*map(str, row.values()))
        console.print(table)
    for line in (in_short(results), *tables.headlines(results)):
        say(line)
    if any(tables.commits(results)):
        say("the runs are not all of one commit without changes: the report begins with whose are")
    say(f"{len(results.runs)} of {len(study.jobs)} runs are in the report")
    if len(results.left_out):
        say("the report says what was left out, and why")
    for path in paths:
        say(f"{path.suffix.lstrip('.')}: {path}")


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
    ahead = f"{ahead if num_below else 'no arm ends'} below the stand-alone student; the best, "
    named, other = (f"{ahead}{arm},", "it") if len(found) > 1 else (arm, "the stand-alone student")
    sure = "one seed: it may be chance"
    if best.low is not None and best.high is not None:
        is_sure = best.low > 0 or best.high < 0
        sure = f"95% interval {best.low:+.3f} to {best.high:+.3f} over {best.num_pairs} seeds"
        sure += "" if is_sure else ": it may be chance"
    side = "below" if best.mean < 0 else "above"
    return f"At length {length}, {named} ends {abs(best.mean):.3f} nats {side} {other} ({sure})."


def _sizes(runs: pd.DataFrame, column: str) -> str:
    """Return the sizes of the students or teachers, by arm where there are several."""
    known = runs.drop_duplicates(["arm", column]).dropna(subset=column)
    by_size = known.groupby(column, sort=False).arm.agg(", ".join)
    rounded = [EngFormatter(places=2)(size) for size in by_size.index]
    if len(rounded) > 1:
        rounded = [f"{n} ({arms})" for n, arms in zip(rounded, by_size, strict=True)]
    return ", ".join(rounded) or "none"


def machine_seconds(runs: pd.DataFrame) -> float:
    """Return the seconds of training: students, remapping, and each teacher once."""
    teachers = runs.drop_duplicates(["teacher_flops", "teacher_seconds"])
    seconds = runs.student_seconds.sum() + runs.remap_seconds.sum()
    return float(seconds + teachers.teacher_seconds.sum())


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest / 60:.1f} min"
