"""What a finished run says: the comparison, the cost, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def summarise(
    run_facts: Mapping[str, Any],
    student: Mapping[str, Any],
    teacher: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of summary.json, before it is compared with anything.

    run_facts: identity, choices and the like. student, teacher: the facts of each training.
    """
    teacher_forward = student["teacher_forward_flops"]
    remap = student.get("remap", {"flops": 0, "seconds": 0.0})
    return {
        **run_facts,
        "student": dict(student),
        "teacher": None if teacher is None else dict(teacher),
        "stand_alone": None,
        "comparison": {},
        "cost": {
            "tokens": student["tokens"],
            "student_flops": student["flops"],
            "teacher_forward_flops": teacher_forward,
            "remap_flops": remap["flops"],
            "teacher_pretraining_flops": 0 if teacher is None else teacher["flops"],
            "student_seconds": student["seconds"],
            "remap_seconds": remap["seconds"],
            "teacher_pretraining_seconds": 0 if teacher is None else teacher.get("seconds"),
        },
    }


def compared(summary: Mapping[str, Any], stand_alone: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run with a teacher, beside that of the same student without one."""
    alone = stand_alone["student"]

    def gap(facts: Mapping[str, Any]) -> float:
        difference: float = facts["heldout"]["loss"] - alone["heldout"]["loss"]
        return difference

    teacher = summary["teacher"]
    comparison: dict[str, Any] = {"student_minus_stand_alone": gap(summary["student"])}
    if teacher is not None:
        comparison["teacher_minus_stand_alone"] = gap(teacher)
        comparison["teacher_ahead"] = gap(teacher) <= 0
        comparison["members_minus_stand_alone"] = {
            name: gap(member) for name, member in teacher.get("members", {}).items()
        }
    return {**summary, "stand_alone": dict(alone), "comparison": comparison}


def print_summary(
    console: Console, summary: Mapping[str, Any], folder: Path, alone_command: str
) -> None:
    """The table, the cost line and the places."""
    table = Table(title=str(summary["name"]), title_justify="left")
    for heading in (
        "model",
        "size",
        "tokens",
        "held-out loss",
        "perplexity",
        "accuracy",
        "vs alone",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    comparison = summary["comparison"]
    members = (summary["teacher"] or {}).get("members", {})
    gaps = comparison.get("members_minus_stand_alone", {})
    rows = (
        ("teacher", summary["teacher"], comparison.get("teacher_minus_stand_alone")),
        *((f"- {name}", member, gaps.get(name)) for name, member in members.items()),
        ("student", summary["student"], comparison.get("student_minus_stand_alone")),
        ("stand-alone", summary["stand_alone"], None),
    )
    for name, facts, difference in rows:
        if facts is not None:
            table.add_row(
                name,
                f"{facts['parameters'] / 1e6:.2f} M",
                f"{facts['tokens'] / 1e6:.2f} M" if facts.get("tokens") else "?",
                f"{facts['heldout']['loss']:.3f}",
                f"{facts['heldout']['perplexity']:.1f}",
                f"{facts['heldout']['accuracy']:.1%}",
                "" if difference is None else f"{difference:+.3f}",
            )
    console.print(table)
    for line in _lines(summary, folder, alone_command):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(summary: Mapping[str, Any], folder: Path, alone_command: str) -> list[str]:
    cost, comparison = summary["cost"], summary["comparison"]
    lines = []
    if comparison.get("teacher_ahead") and summary["teacher"]["parameters"] == 0:
        lines.append("a virtual teacher is told the labels: its loss says nothing of any model")
    elif comparison.get("teacher_ahead"):
        lines.append(
            "teacher ahead: it is better than the stand-alone student; this is no longer "
            "distillation from a weak teacher"
        )
    if summary["teacher"] is not None and "teacher_ahead" not in comparison:
        lines.append(f"no stand-alone student of this seed and length yet: {alone_command}")
    if start := summary["student"].get("remap"):
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in start["losses"].items())
        lines.append(f"held-out loss before the first step: {losses}")
    pretraining = cost["teacher_pretraining_flops"]
    learning = f", remap {_flops(cost['remap_flops'])}" if cost.get("remap_flops") else ""
    lines += [
        f"cost: {cost['tokens'] / 1e6:.2f} M tokens; student {_flops(cost['student_flops'])}, "
        f"teacher forward {_flops(cost['teacher_forward_flops'])}{learning}, teacher pre-training "
        f"{'unknown' if pretraining is None else _flops(pretraining)}; "
        f"{summary['seconds']:.0f} s in all, peak memory {summary['peak_memory_gb']:.2f} GB",
        f"text: {summary['corpus']['fingerprint']}, "
        f"{summary['corpus']['heldout_8gram_residue']:.1%} of held-out 8-grams occur in training",
        f"model: {folder / 'model'}",
        f"curves: {folder / 'curves.png'}",
        f"record: {folder}",
    ]
    if summary.get("sync"):
        lines.append(f"W&B has not been sent everything: {summary['sync']}")
    return lines


def _flops(count: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e9:.2f} GFLOP"
