"""What a finished run tells on the terminal: a table of its models, and a line for each fact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from dwt_cli.track.display import plain_line
from dwt_cli.track.summary import Facts, Summary
from dwt_cli.track.wandb import has_key


def print_summary(
    console: Console, summary: Summary, folder: Path, to_know: Mapping[str, str]
) -> None:
    """Print the table, what the teacher brought, the cost line and the places.

    to_know: the commands of stand-alone students that are not there, by what each tells.
    """
    alone, members = summary.stand_alone, summary.teacher.members if summary.teacher else {}
    table = Table(Column("model", no_wrap=True), title=summary.name, title_justify="left")
    student = summary.student
    for heading in (*_cells(student, student), *(["vs alone"] if alone else [])):
        table.add_column(heading, justify="right")
    of_members = {f"- {name}": member for name, member in members.items()}
    models = {"teacher": summary.teacher, **of_members, "student": student}
    for name, facts in (models | {"stand-alone": alone}).items():
        if facts is not None:
            is_apart = alone is None or facts is alone or not facts.heldout
            gap = "" if alone is None or is_apart else f"{facts.loss - alone.loss:+.3f}"
            table.add_row(name, *_cells(facts, student).values(), *([gap] if alone else []))
    console.print(table)
    say = plain_line(console)
    for line in _lines(summary, folder, to_know):
        say(line)


_SHOWN = {
    "loss": ("held-out", "{:.3f}"),
    "perplexity": ("perplexity", "{:.1f}"),
    "bits_per_byte": ("bits per byte", "{:.3f}"),
    **{name: (name, "{:.3f}") for name in ("matthews", "pearson", "spearman")},
}
"""Heading and format of held-out metrics; of others the name, as a share."""


def _cells(facts: Facts, student: Facts) -> dict[str, str]:
    cells = {
        "size": f"{facts.parameters / 1e6:.2f} M",
        "tokens": f"{facts.tokens / 1e6:.2f} M" if facts.tokens else "?",
    }
    for name in student.heldout:
        heading, form = _SHOWN.get(name, (name, "{:.1%}"))
        cells[heading] = form.format(facts.heldout[name]) if name in facts.heldout else ""
    if not facts.heldout and facts.parameters:
        cells["held-out"] = "other tokens"
    return cells


def brought(summary: Summary) -> str:
    """Return in a sentence what the teacher brought against the stand-alone student."""
    comparison, alone = summary.comparison, summary.stand_alone
    if alone is None:
        return "what the teacher brought: unknown, there is no stand-alone student like this one"

    unit = " nats" if "accuracy" in alone.heldout else ""  # else they are squared errors

    def against(gap: float) -> str:
        return f"{abs(gap):.3f}{unit} {'below' if gap < 0 else 'above'} the stand-alone student's"

    parts = [f"held-out loss ends {against(comparison['student_minus_stand_alone'])}"]
    if (saved := comparison.get("tokens_saved")) is None:
        parts.append("it never comes to that student's final loss, so no tokens are saved")
    else:
        ours, theirs = (_rounded(n) for n in (summary.tokens_to_stand_alone, alone.tokens))
        parts.append(f"it comes to that loss after {ours} of {theirs} tokens ({saved:.0%} saved)")
    at_equal = "at equal FLOPs, its forward passes counted, "
    gap = comparison.get("student_minus_equal_flops")
    parts.append(at_equal + ("it is unknown" if gap is None else f"it ends {against(gap)}"))
    return f"what the teacher brought: {'; '.join(parts)}; one seed: it may be chance"


def _lines(summary: Summary, folder: Path, to_know: Mapping[str, str]) -> list[str]:
    cost, comparison, teacher = summary.cost, summary.comparison, summary.teacher
    lines = []
    if comparison.get("teacher_ahead") and teacher and teacher.parameters == 0:
        lines.append("a virtual teacher is told the labels: its loss says nothing of any model")
    elif comparison.get("teacher_ahead"):
        lines.append(
            "teacher ahead: it is better than the stand-alone student; this is no longer "
            "distillation from a weak teacher"
        )
    if teacher is not None:
        lines.append(brought(summary))
    lines += [f"to know {what}: {command}" for what, command in to_know.items()]
    lines += [f"sample: {' '.join(sample.split())}" for sample in summary.samples[:1]]
    if teacher is not None and teacher.aligned is not None:
        lines.append(
            f"the teacher reads other tokens: {teacher.aligned:.1%} of the student's end where one "
            "of its own does"
            + (f"; {teacher.beyond:.1%} are after what it reads" if teacher.beyond else "")
        )
    if teacher is not None and teacher.unknown:
        lines.append(
            f"the teacher cannot read {teacher.unknown:.1%} of the text's chunks: left out"
        )
    for name, each in {"the teacher": teacher, **(teacher.members if teacher else {})}.items():
        if each is not None and (windows := each.windows):
            lines.append(
                f"{name} reads a block in {windows['number']} windows of {windows['length']} "
                "positions; every position is taught, from the window where it sees most"
            )
    if teacher is not None and teacher.fresh:
        lines.append("the teacher has no head: it teaches by features, its loss is an even guess's")
    if summary.student.fresh:
        lines.append("the student began with a fresh head: its checkpoint has none")
    if remap := summary.student.remap:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in remap["losses"].items())
        lines.append(f"held-out loss before the first step: {losses}")
        if (lost := summary.student.loss - remap["losses"]["remapped"]) > 0:
            lines.append(
                f"the student ends {lost:.3f} nats above where it began: a run so short undoes at "
                "this rate what it took over; lower optim.lr (and optim.hidden_lr), or train longer"
            )
        if tokens := remap.get("tokens"):
            kinds = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in tokens.items())
            lines.append(f"tokens of the new vocabulary, by what they began as: {kinds}")
    if (signal := summary.student.signal) and signal.get("biased"):
        lines.append(
            "the teacher's rows are biased: its likeliest tokens, and the rest as one outcome"
            + (" (imported: what they took is not known)" if signal["flops"] is None else "")
        )
    if crossing := summary.student.crossing:
        lines.append(crossing["why"])
    if order := summary.student.order:
        lines.append(f"order: of {order['blocks']:,} blocks {order['chosen']:,} were read")
    if tuning := summary.student.tuning:
        share = f" ({tuning['trained'] / summary.student.parameters:.2%} of the model's)"
        zeros = f"; {tuning['zeros']:.1%} of its layers' are 0" if "zeros" in tuning else ""
        lines.append(f"tuning: {tuning['trained']:,} numbers were trained{share}{zeros}")
    parts = ("calibration", "scoring", "remap")
    learning = "".join(f", {p} {_flops(n)}" for p in parts if (n := cost[f"{p}_flops"]))
    teaching = (
        f", teacher forward {_flops(cost['teacher_forward_flops'])}{learning}, "
        f"teacher pre-training {_flops(cost['teacher_pretraining_flops'])}"
    )
    lines += [
        f"cost: {(cost['tokens'] or 0) / 1e6:.2f} M tokens; student "
        f"{_flops(cost['student_flops'])}{teaching if teacher else ''}; "
        f"{summary.seconds:.0f} s in all, peak memory {summary.peak_memory_gb:.2f} GB",
        f"text: {summary.corpus['fingerprint']}, {_about(summary.corpus)}",
        f"model: {folder / 'model'}",
        f"curves: {folder / 'curves.png'}",
        f"record: {folder}",
    ]
    if summary.sync and has_key():
        lines.append(f"W&B has not been sent everything: {summary.sync}")
    return lines


def _about(corpus: Mapping[str, Any]) -> str:
    if (residue := corpus.get("heldout_8gram_residue")) is None:  # labelled texts
        return str(corpus["about"])
    return f"{residue:.1%} of held-out 8-grams occur in training"


def _flops(count: float | None) -> str:
    return _rounded(count, "FLOP")


def _rounded(count: float | None, unit: str = "") -> str:
    from matplotlib.ticker import EngFormatter  # `dwt-runs` needs no figures

    return "unknown" if count is None else EngFormatter(unit, places=2)(count)
