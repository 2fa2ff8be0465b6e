"""GLUE's data: the nine tasks, from a folder in the original TSV layout or from the hub.

The sizes are those of the official splits (arXiv 1804.07461, and the files themselves).
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base import network
from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError, first_line
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.data.labelled import Examples, LabelledSet

HUB = "nyu-mll/glue"
_MOST_TORN = 0.01  # of a file's rows: more is another format, not a slip


@dataclass(frozen=True)
class Split:
    """One split: its file, its name on the hub, what scores on it are called, its official size."""

    file: str
    on_hub: str
    title: str
    size: int


@dataclass(frozen=True)
class Task:
    """One task. texts, label: the columns, in the TSV files and on the hub (``hub_texts``).

    labels: the classes in the hub's order; empty for a regression. sizes: of the training and dev
    sets. in_files: how TSV files write the classes, if not by name. header: the column names of a
    file that does not begin with them.
    """

    name: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    sizes: tuple[int, ...]
    hub_texts: tuple[str, ...] | None = None
    header: tuple[str, ...] = ()
    in_files: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """The classes as TSV files have them."""
        return self.in_files or self.labels

    @property
    def on_hub(self) -> str:
        return self.name.lower().replace("-", "")

    @property
    def train(self) -> Split:
        return Split("train.tsv", "train", self.name, self.sizes[0])

    @property
    def dev(self) -> list[Split]:
        """The dev sets: of MNLI from the genres of its training set, and from others."""
        ends = ("",) if len(self.sizes) == 2 else ("_matched", "_mismatched")
        titles = (self.name,) if len(self.sizes) == 2 else (f"{self.name}-m", f"{self.name}-mm")
        return [
            Split(f"dev{end}.tsv", f"validation{end}", title, size)
            for end, title, size in zip(ends, titles, self.sizes[1:], strict=True)
        ]


_PAIR = ("sentence1", "sentence2")
_DIGITS = ("0", "1")
_INFERENCE = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        Task("CoLA", ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews",),
             (8551, 1043), in_files=_DIGITS, header=("source", "label", "mark", "sentence")),
        Task("SST-2", ("sentence",), "label", ("negative", "positive"), ("accuracy",), (67349, 872),
             in_files=_DIGITS),
        Task("MRPC", ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"),
             ("f1", "accuracy"), (3668, 408), hub_texts=_PAIR, in_files=_DIGITS),
        Task("STS-B", _PAIR, "score", (), ("pearson", "spearman"), (5749, 1500)),
        Task("QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"),
             ("f1", "accuracy"), (363846, 40430), in_files=_DIGITS),
        Task("MNLI", _PAIR, "gold_label", ("entailment", "neutral", "contradiction"),
             ("accuracy",), (392702, 9815, 9832), hub_texts=("premise", "hypothesis")),
        Task("QNLI", ("question", "sentence"), "label", _INFERENCE, ("accuracy",), (104743, 5463)),
        Task("RTE", _PAIR, "label", _INFERENCE, ("accuracy",), (2490, 277)),
        Task("WNLI", _PAIR, "label", ("not_entailment", "entailment"), ("accuracy",), (635, 71),
             in_files=_DIGITS),
    )
}  # fmt: skip


def provenance(task: Task, path: str | None, setting: str) -> dict[str, Any]:
    """Return what determines the data: the sums of the files, or the name on the hub.

    setting: what names the path.
    """
    if path is None:
        return {"hub": HUB, "config": task.on_hub}
    parts = (task.train, *task.dev)
    return {"files": {part.file: file_sum(_file(task, part, path, setting)) for part in parts}}


def read(task: Task, split: Split, path: str | None, setting: str) -> Examples:
    """Return one split; `UserError` when it is not there or not what it should be.

    setting: what names the path.
    """
    remarks: list[str] = []
    if path is None:
        rows = _from_hub(task, split, setting)
    else:
        file = _file(task, split, path, setting)
        rows, num_torn = _from_file(task, file)
        if num_torn:
            remarks.append(f"{file.name}: {num_torn} torn rows left out")
        if file.name != split.file:
            remarks.append(f"{split.title} read from {file.name}")
    count = len(rows)
    if count != split.size:
        remarks.append(f"{task.name}/{split.file}: {count:,} examples, officially {split.size:,}")
    texts, labels = zip(*rows, strict=True)
    return Examples(texts, labels, remarks)


Row = tuple[tuple[str, ...], float]


def _file(task: Task, split: Split, path: str, setting: str) -> Path:
    """Return the split's file, or one with more to its name (dev_mismatched_hard.tsv)."""
    folder = Path(path).expanduser() / task.name
    named = folder / split.file
    for file in (named, *sorted(folder.glob(f"{named.stem}_*.tsv"))):
        if file.is_file():
            return file
    raise UserError(
        f"{setting}={path}: {task.name}/{split.file} is not there (looked in "
        f"{folder.absolute()}); put it there, or name other tasks than {task.name}"
    )


def _from_file(task: Task, file: Path) -> tuple[list[Row], int]:
    """Return the rows of a file, and how many lacked a field. A quote is a mark like any other."""
    wanted = (*task.texts, task.label)
    rows: list[Row] = []
    torn = []
    with file.open(encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, task.header or None, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            columns = reader.fieldnames or ()
            if lacking := [name for name in wanted if name not in columns]:
                raise UserError(
                    f"{file} has no column {', '.join(lacking)} (it has: {', '.join(columns)}); "
                    "the layout is that of the original GLUE files"
                )
            for row in reader:
                *texts, label = (row[name] for name in wanted)
                if label is None or None in texts:
                    torn.append(reader.line_num)
                else:
                    number = _label(task, label, f"{file} line {reader.line_num}")
                    rows.append((tuple(texts), number))
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8; convert it") from error
    if not rows or len(torn) > _MOST_TORN * len(rows):
        raise UserError(
            f"{file} line {torn[0] if torn else 1}: a row has {len(columns)} fields with tabs "
            f"between them ({', '.join(columns)}); fetch the file again"
        )
    return rows, len(torn)


def _label(task: Task, text: str, place: str) -> float:
    try:
        return task.written.index(text) if task.labels else float(text)
    except ValueError as error:
        wanted = f"one of {', '.join(task.written)}" if task.labels else "a number"
        raise UserError(
            f"{place}: label {text!r} of {task.name} is not {wanted}; put the file right"
        ) from error


def _from_hub(task: Task, split: Split, setting: str) -> list[Row]:
    network.notice_absence()  # before datasets takes note of it
    import datasets  # here, because it takes a second

    try:
        rows = datasets.load_dataset(HUB, task.on_hub, split=split.on_hub)
    except Exception as error:  # whatever the datasets library and the hub's client raise
        raise UserError(
            f"{setting}=null: {HUB} {task.on_hub} cannot be read from the hub "
            f"({first_line(error)}); check the network, or set {setting} to a folder "
            "with the TSV files"
        ) from error
    texts = task.hub_texts or task.texts
    return [(tuple(row[name] for name in texts), float(row["label"])) for row in rows]


@dataclass(frozen=True)
class GlueSet:
    """One of the tasks to be trained on, with its dev sets held out.

    path: the folder of all tasks; None: the hub. setting: what names it. max_train, max_dev: the
    first so many examples, in an order drawn once for every model, seed and day; None: all.
    """

    task: Task
    path: str | None
    setting: str = "task.path"
    max_train: int | None = None
    max_dev: int | None = None

    def content(self) -> dict[str, Any]:
        """Return what determines the set."""
        found = {"source": "glue", "task": self.task.name}
        most = {"most": most} if any(most := [self.max_train, self.max_dev]) else {}
        return found | provenance(self.task, self.path, self.setting) | most

    def read(self) -> LabelledSet:
        """Return the whole set; raises as the function `read` does."""
        task = self.task
        train = self._some(task.train, self.max_train)
        dev = [self._some(split, self.max_dev) for split in task.dev]
        names = ["", *(split.title for split in task.dev[1:])]
        return LabelledSet(task.labels, train, dict(zip(names, dev, strict=True)), task.dev[0].file)

    def _some(self, split: Split, most: int | None) -> Examples:
        examples = read(self.task, split, self.path, self.setting)
        if most is None or most >= len(examples.texts):
            return examples
        order = generator(seed_for("glue", split.title, split.file)).permutation(
            len(examples.texts)
        )
        chosen = sorted(order[:most].tolist())
        texts, labels = ([each[n] for n in chosen] for each in (examples.texts, examples.labels))
        return Examples(texts, labels, examples.remarks)
