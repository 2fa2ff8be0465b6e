"""GLUE's data: the nine tasks, from a folder in the original TSV layout or from the hub.

The sizes are those of the official splits (arXiv 1804.07461, and the files themselves).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError, first_line

HUB = "nyu-mll/glue"
_MOST_TORN = 0.01  # of a file's rows: more is another format, not a slip


@dataclass(frozen=True)
class Source:
    """One split: its file, its name on the hub, what scores on it are called, its official size."""

    file: str
    split: str
    title: str
    size: int


@dataclass(frozen=True)
class Task:
    """One task. texts, label: the columns, in the TSV files and on the hub.

    labels: the classes in the hub's order; empty for a regression. header: the column names of a
    file that does not begin with them.
    """

    name: str
    hub: str
    texts: tuple[str, ...]
    hub_texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: Source
    dev: tuple[Source, ...]
    header: tuple[str, ...] = ()


def _task(
    name: str,
    texts: str,
    label: str,
    labels: str,
    metrics: str,
    num_train: int,
    num_dev: int | None = None,
    hub_texts: str | None = None,
    header: str = "",
) -> Task:
    return Task(
        name,
        name.lower().replace("-", ""),
        tuple(texts.split("|")),
        tuple((hub_texts or texts).split("|")),
        label,
        tuple(labels.split()),
        tuple(metrics.split()),
        Source("train.tsv", "train", name, num_train),
        (Source("dev.tsv", "validation", name, num_dev),) if num_dev else _MNLI_DEV,
        tuple(header.split()),
    )


_PAIR = "sentence1|sentence2"
_INFERENCE = "entailment not_entailment"
_MNLI_DEV = (
    Source("dev_matched.tsv", "validation_matched", "MNLI-m", 9815),
    Source("dev_mismatched.tsv", "validation_mismatched", "MNLI-mm", 9832),
)

TASKS = {
    task.name: task
    for task in (
        _task("CoLA", "sentence", "label", "0 1", "matthews", 8551, 1043,
              header="source label mark sentence"),
        _task("SST-2", "sentence", "label", "0 1", "accuracy", 67349, 872),
        _task("MRPC", "#1 String|#2 String", "Quality", "0 1", "f1 accuracy", 3668, 408,
              hub_texts=_PAIR),
        _task("STS-B", _PAIR, "score", "", "pearson spearman", 5749, 1500),
        _task("QQP", "question1|question2", "is_duplicate", "0 1", "f1 accuracy", 363846, 40430),
        _task("MNLI", _PAIR, "gold_label", "entailment neutral contradiction", "accuracy", 392702,
              hub_texts="premise|hypothesis"),
        _task("QNLI", "question|sentence", "label", _INFERENCE, "accuracy", 104743, 5463),
        _task("RTE", _PAIR, "label", _INFERENCE, "accuracy", 2490, 277),
        _task("WNLI", _PAIR, "label", "0 1", "accuracy", 635, 71),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """Texts, or pairs of them, with class numbers or, for a regression, numbers."""

    title: str
    texts: Sequence[tuple[str, ...]]
    labels: Sequence[float]
    remarks: tuple[str, ...]


def provenance(task: Task, path: str | None) -> dict[str, Any]:
    """Return what determines the data: the sums of the files, or the name on the hub."""
    if path is None:
        return {"hub": HUB, "config": task.hub}
    sources = (task.train, *task.dev)
    return {"files": {source.file: file_sum(_file(task, source, path)) for source in sources}}


def read(task: Task, source: Source, path: str | None) -> Examples:
    """Return one split; `UserError` when it is not there or not what it should be."""
    remarks: list[str] = []
    if path is None:
        rows = _from_hub(task, source)
    else:
        file = _file(task, source, path)
        rows, remarks = _from_file(task, file)
        if file.name != source.file:
            remarks.append(f"{source.title} read from {file.name}")
    if len(rows) != source.size:
        remarks.append(
            f"{task.name}/{source.file}: {len(rows):,} examples, officially {source.size:,}"
        )
    texts, labels = zip(*rows, strict=True)
    return Examples(source.title, texts, labels, tuple(remarks))


Row = tuple[tuple[str, ...], float]


def _file(task: Task, source: Source, path: str) -> Path:
    """Return the split's file, or one with more to its name (dev_mismatched_hard.tsv)."""
    folder = Path(path).expanduser() / task.name
    named = folder / source.file
    for file in (named, *sorted(folder.glob(f"{named.stem}_*.tsv"))):
        if file.is_file():
            return file
    raise UserError(
        f"eval.glue.path={path}: {task.name}/{source.file} is not there (looked in "
        f"{folder.absolute()}); put it there, or leave {task.name} out of eval.glue.tasks"
    )


def _from_file(task: Task, file: Path) -> tuple[list[Row], list[str]]:
    lines = _lines(file)
    header = task.header or tuple(next(lines, (0, ()))[1])
    wanted = (*task.texts, task.label)
    if lacking := [name for name in wanted if name not in header]:
        raise UserError(
            f"{file} has no column {', '.join(lacking)} (it has: {', '.join(header)}); "
            "the layout is that of the original GLUE files"
        )
    places = [header.index(name) for name in wanted]
    rows, torn = [], []
    for number, fields in lines:
        if len(fields) <= max(places):
            torn.append(number)
            continue
        *texts, label = (fields[place] for place in places)
        rows.append((tuple(texts), _label(task, label, f"{file} line {number}")))
    if not rows or len(torn) > _MOST_TORN * len(rows):
        raise UserError(
            f"{file} line {torn[0] if torn else 1}: a row has {len(header)} fields with tabs "
            f"between them ({', '.join(header)}); fetch the file again"
        )
    return rows, [f"{file.name}: {len(torn)} torn rows left out"] if torn else []


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line. A quote is a character like any other."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8; convert it") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line:
            yield number, line.split("\t")


def _label(task: Task, text: str, place: str) -> float:
    if task.labels:
        if text in task.labels:
            return task.labels.index(text)
        wanted = f"one of {', '.join(task.labels)}"
    else:
        try:
            return float(text)
        except ValueError:
            wanted = "a number"
    raise UserError(f"{place}: label {text!r} of {task.name} is not {wanted}; put the file right")


def _from_hub(task: Task, source: Source) -> list[Row]:
    import datasets  # here, because it takes a second

    try:
        rows = datasets.load_dataset(HUB, task.hub, split=source.split)
    except Exception as error:  # whatever the datasets library and the hub's client raise
        raise UserError(
            f"eval.glue.path=null: {HUB} {task.hub} cannot be read from the hub "
            f"({first_line(error)}); check the network, or set eval.glue.path to a folder "
            "with the TSV files"
        ) from error
    return [(tuple(row[name] for name in task.hub_texts), float(row["label"])) for row in rows]
