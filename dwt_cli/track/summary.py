"""What a finished run reports: what is known of its models, the comparison, the cost."""

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from dwt_cli.track.display import plain_line


def heldout_masks(settings: Mapping[str, Any]) -> str:
    """Name the masks on held-out text of a run with these settings: only equal ones compare.

    settings: as config.yaml has them. Version 0.2 masked held-out text as the task said.
    """
    task, ratio = settings.get("task") or {}, (settings.get("eval") or {}).get("mask_ratio")
    if ratio is None:
        kept = (task.get("keep_ratio", 0.1), task.get("random_ratio", 0.1))
        ratios = (task.get("mask_ratio", 0.15), *kept)
    else:
        ratios = (ratio, 0.1, 0.1)
    return "{:g} masked, {:g} of them kept, {:g} random".format(*ratios)


@dataclass(frozen=True)
class Facts:
    """A model and its training; what is None is not known, and left out of the file.

    parameters: distinct ones. heldout: its metrics on the held-out text, at its end.
    flops: of its training; null in the file where nobody knows. tokens: read in training.
    num_taught: steps with a teacher. remap: FLOPs and seconds of the start from a teacher, and
    held-out losses around it. members: of a mixture of teachers, by name.
    """

    parameters: int
    heldout: dict[str, float]
    flops: float | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    num_skipped: int | None = None
    num_taught: int | None = None
    heldout_at_start: dict[str, float] | None = None
    best_heldout: dict[str, float | None] | None = None
    seconds: float | None = None
    remap: dict[str, Any] | None = None
    teacher_forward_flops: float | None = None
    members: "dict[str, Facts]" = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The held-out loss, in nats per target."""
        return self.heldout["loss"]

    def to_json(self) -> dict[str, Any]:
        """Return the content of a file, without what is not known."""
        known = {k: v for k, v in vars(self).items() if v is not None or k == "flops"}
        members = {name: member.to_json() for name, member in known.pop("members").items()}
        return known | ({"members": members} if members else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "") -> Self:
        """Return what `to_json` has made, of this or an earlier version.

        Raises KeyError where a field that has no default is not there.
        """
        known = _known(cls, content, where)
        members = known.pop("members", {})
        return cls(**known, members={name: Facts.from_json(m) for name, m in members.items()})


@dataclass(frozen=True)
class Summary:
    """The content of summary.json.

    seconds: of the process that finished. corpus: fingerprint and report of the text.
    stand_alone: the same student without a teacher, if it is there. sync: the command that sends
    what a dashboard has not got.
    """

    name: str
    identity: str
    choices: dict[str, str]
    seed: int
    seconds: float
    peak_memory_gb: float
    corpus: dict[str, Any]
    student: Facts
    teacher: Facts | None = None
    stand_alone: Facts | None = None
    sync: str | None = None

    @property
    def comparison(self) -> dict[str, Any]:
        """Held-out losses minus the stand-alone student's, in nats; empty without that one."""
        if self.stand_alone is None:
            return {}
        alone = self.stand_alone.loss
        gaps: dict[str, Any] = {"student_minus_stand_alone": self.student.loss - alone}
        if self.teacher is not None:
            gap = self.teacher.loss - alone
            gaps["teacher_minus_stand_alone"] = gap
            gaps["teacher_ahead"] = gap <= 0
            gaps["members_minus_stand_alone"] = {
                name: member.loss - alone for name, member in self.teacher.members.items()
            }
        return gaps

    @property
    def cost(self) -> dict[str, float | None]:
        """Tokens, FLOPs and seconds; None for the pre-training of a checkpoint."""
        student, teacher = self.student, self.teacher
        remap = student.remap or {"flops": 0, "seconds": 0.0}
        return {
            "tokens": student.tokens,
            "student_flops": student.flops,
            "teacher_forward_flops": student.teacher_forward_flops,
            "remap_flops": remap["flops"],
            "teacher_pretraining_flops": 0 if teacher is None else teacher.flops,
            "student_seconds": student.seconds,
            "remap_seconds": remap["seconds"],
            "teacher_pretraining_seconds": 0 if teacher is None else teacher.seconds,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        content = dict(vars(self))
        for role in ("student", "teacher", "stand_alone"):
            content[role] = content[role] and content[role].to_json()
        sync = content.pop("sync")
        content |= {"comparison": self.comparison, "cost": self.cost}
        return content | ({"sync": sync} if sync else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what `to_json` has made, of this or an earlier version.

        Raises KeyError where a field that has no default is not there.
        """
        known = _known(cls, content)
        for role in ("student", "teacher", "stand_alone"):
            if known.get(role) is not None:
                known[role] = Facts.from_json(known[role], f"{role}.")
        return cls(**known)


def _known(kind: Any, content: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return what of a JSON object is a field. Raises KeyError unless all that is needed is."""
    for f in dataclasses.fields(kind):
        if f.name not in content and f.default is MISSING and f.default_factory is MISSING:
            raise KeyError(f"{where}{f.name}")
    return {f.name: content[f.name] for f in dataclasses.fields(kind) if f.name in content}


def print_summary(console: Console, summary: Summary, folder: Path, alone_command: str) -> None:
    """Print the table, the cost line and the places."""
    table = Table("model", title=summary.name, title_justify="left")
    for heading in ("size", "tokens", "held-out loss", "perplexity", "accuracy", "vs alone"):
        table.add_column(heading, justify="right")
    comparison = summary.comparison
    members = summary.teacher.members if summary.teacher else {}
    gaps = comparison.get("members_minus_stand_alone", {})
    rows = (
        ("teacher", summary.teacher, comparison.get("teacher_minus_stand_alone")),
        *((f"- {name}", member, gaps.get(name)) for name, member in members.items()),
        ("student", summary.student, comparison.get("student_minus_stand_alone")),
        ("stand-alone", summary.stand_alone, None),
    )
    for name, facts, difference in rows:
        if facts is not None:
            table.add_row(
                name,
                f"{facts.parameters / 1e6:.2f} M",
                f"{facts.tokens / 1e6:.2f} M" if facts.tokens else "?",
                f"{facts.loss:.3f}",
                f"{facts.heldout['perplexity']:.1f}",
                f"{facts.heldout['accuracy']:.1%}",
                "" if difference is None else f"{difference:+.3f}",
            )
    console.print(table)
    say = plain_line(console)
    for line in _lines(summary, folder, alone_command):
        say(line)


def _lines(summary: Summary, folder: Path, alone_command: str) -> list[str]:
    cost, comparison, teacher = summary.cost, summary.comparison, summary.teacher
    lines = []
    if comparison.get("teacher_ahead") and teacher and teacher.parameters == 0:
        lines.append("a virtual teacher is told the labels: its loss says nothing of any model")
    elif comparison.get("teacher_ahead"):
        lines.append(
            "teacher ahead: it is better than the stand-alone student; this is no longer "
            "distillation from a weak teacher"
        )
    if teacher is not None and "teacher_ahead" not in comparison:
        lines.append(f"no stand-alone student of this seed and length yet: {alone_command}")
    if remap := summary.student.remap:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in remap["losses"].items())
        lines.append(f"held-out loss before the first step: {losses}")
    learning = f", remap {_flops(cost['remap_flops'])}" if cost["remap_flops"] else ""
    lines += [
        f"cost: {(cost['tokens'] or 0) / 1e6:.2f} M tokens; student "
        f"{_flops(cost['student_flops'])}, teacher forward "
        f"{_flops(cost['teacher_forward_flops'])}{learning}, teacher pre-training "
        f"{_flops(cost['teacher_pretraining_flops'])}; "
        f"{summary.seconds:.0f} s in all, peak memory {summary.peak_memory_gb:.2f} GB",
        f"text: {summary.corpus['fingerprint']}, "
        f"{summary.corpus['heldout_8gram_residue']:.1%} of held-out 8-grams occur in training",
        f"model: {folder / 'model'}",
        f"curves: {folder / 'curves.png'}",
        f"record: {folder}",
    ]
    if summary.sync:
        lines.append(f"W&B has not been sent everything: {summary.sync}")
    return lines


def _flops(count: float | None) -> str:
    from matplotlib.ticker import EngFormatter  # `dwt-runs` needs no figures

    return "unknown" if count is None else EngFormatter("FLOP", places=2)(count)
