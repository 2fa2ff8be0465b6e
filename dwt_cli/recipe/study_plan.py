"""What the missing runs of a study will take, before they are paid for: tokens, FLOPs, hours."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from dwt_cli.base.cache import Cache
from dwt_cli.base.machine import Machine
from dwt_cli.config.run import RunOptions
from dwt_cli.recipe.memory import memory
from dwt_cli.recipe.plan import hours, on_each
from dwt_cli.recipe.record import find, read_summary, summary_of
from dwt_cli.recipe.student import StudentStage
from dwt_cli.study.record import Job
from dwt_cli.track.display import plain_line

_FORMS = {"runs": ",.0f", "tokens": ",.0f", "epochs": ".2f", "FLOPs": ".3g", "hours": ",.2f",
          "GB a rank": ".3f"}  # fmt: skip


def print_study_plan(
    students: Sequence[StudentStage],
    jobs: Sequence[Job],
    options: RunOptions,
    num_ranks: int,
    title: str,
    console: Console,
    kind: str = "arm",
    on_record: Iterable[str] = (),
) -> None:
    """Print what the missing runs of a study will take: a line per arm and length, and their sum.

    kind: what an arm is called there. on_record: the identities of the study's other runs.
    A training that several of them need counts once, at the first; one that the cache has, never.
    What a finished run has asked a teacher for, and is cached, is not asked for again.
    Hours are at the speed of the device that is told, else of those of these runs that are finished
    here, else of the others. With ``run.device_gb`` it also has what a rank holds; the most epochs
    of a run, where they are more than one and the text is known.
    """
    say = plain_line(console)
    cache, root = Cache(options.cache, say), Path(options.root).expanduser()
    costs: dict[tuple[str, int, str], float | None] = {}  # they are alike for all seeds
    rows, finished, seen = [], [], set[str]()
    asked: dict[str, dict[int, int]] = {}
    pairs = zip(students, jobs, strict=True)
    for student, job in sorted(pairs, key=lambda pair: pair[1].state != "finished"):
        if student.shapes.checkpoints:  # what is not there is named by its own setting
            _ = student.shapes.student_model, student.shapes.teacher_models
        there = options.train_tokens or student.corpus.known_tokens(cache)
        student = replace(student, train_tokens=there)
        if job.state == "finished":
            if summary := summary_of(root, student):  # else elsewhere
                finished.append(summary.cost)
                for stage in student.stages:
                    if stage.grows and stage.place(cache).is_dir():
                        stage.cost_beyond(asked)
        elif student.identity not in seen:
            for stage in student.stages:
                if stage.grows or (job.arm, job.length, stage.name) not in costs:
                    costs[job.arm, job.length, stage.name] = stage.cost_beyond(asked)
            new = [each for each in student.stages if each.grows or each.identity not in seen]
            flops = [costs[job.arm, job.length, s.name] for s in new if not s.is_kept(cache)]
            tokens = (student.num_steps({}) or nan) * student.shapes.conditions.tokens_per_step
            whole = nan if None in flops else sum(each or 0.0 for each in flops)
            epochs = tokens / (there or nan)
            rows.append((job.arm, str(job.length), 1, tokens, epochs, whole))
            seen |= {stage.identity for stage in new}
    if not finished:
        others = (read_summary(find(root, each)) for each in on_record)
        finished = [other.cost for other in others if other]
    speed, why = nan, "unknown: no run is finished here, and there is no run.peak_tflops"
    if options.peak_tflops:
        speed = num_ranks * options.peak_tflops * options.mfu
        why = f"at {options.mfu:.0%} of {options.peak_tflops:g} TFLOP/s{on_each(num_ranks)}"
    elif finished:
        spent = ("student_flops", "teacher_forward_flops")
        done = sum(cost[name] or 0.0 for cost in finished for name in spent)
        speed = done / sum(cost["student_seconds"] or nan for cost in finished) / 1e12
        why = f"at {speed:.3g} TFLOP/s, as its finished runs"
    lines = pd.DataFrame(rows, columns=["arm", "length", "runs", "tokens", "epochs", "FLOPs"])
    add = lambda each: (each.max if each.name == "epochs" else each.sum)(skipna=False)  # noqa: E731
    lines = lines.groupby(["arm", "length"], sort=False).agg(add).reset_index()
    lines.loc[len(lines)] = ["in all", "", *lines.iloc[:, 2:].agg(add)]
    if not (lines.epochs > 1).any():
        lines = lines.drop(columns="epochs")
    lines["hours"] = [hours(flops, speed, 1.0) for flops in lines.FLOPs]
    if gb := options.device_gb:
        device = Machine.elsewhere(gb, students[0].shapes.conditions.train.precision)
        of_arms = {job.arm: student.shapes for student, job in zip(students, jobs, strict=True)}
        held = {arm: memory(of_arms[arm], device, num_ranks).total for arm in lines.arm[:-1]}
        large = ", ".join(arm for arm, size in held.items() if size > device.memory_bytes)
        say(f"run.device_gb={gb:g}: " + (f"it does not fit: {large}" if large else "it fits"))
        held["in all"] = max(held.values(), default=0)
        lines["GB a rank"] = lines.arm.map(held) / 1e9
    lines = lines.rename(columns={"arm": kind})
    table = Table(*lines.columns, title=f"{title}: what is missing will take", title_justify="left")
    for arm, length, *numbers in lines.itertuples(index=False):
        cells = [f"{n:{_FORMS[name]}}" for name, n in zip(lines.columns[2:], numbers, strict=True)]
        table.add_row(arm, length, *("unknown" if cell == "nan" else cell for cell in cells))
    console.print(table)
    num_done = sum(job.state == "finished" for job in jobs)
    say(f"hours are {why}; {num_done} of {len(jobs)} runs are finished")
