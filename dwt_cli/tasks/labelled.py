"""The tasks of labelled texts: whose they are, and what their classes are called.

A model of such a task is a classifier of the library, and a target is a text. Imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omegaconf import MISSING

from dwt_cli.base.errors import not_among
from dwt_cli.base.options import added, at_least, between, bookkeeping
from dwt_cli.data import glue
from dwt_cli.data.labelled import PACKAGES, Columns, LabelledSet, OwnFiles, PackageTexts
from dwt_cli.data.options import Frame, TokenizerKind
from dwt_cli.models.options import Classes, Family
from dwt_cli.tasks.options import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dwt_cli.tasks.task import Targets


class LabelledSource(Protocol):
    """Labelled texts that can be read. Both raise `UserError`."""

    def content(self) -> dict[str, Any]:
        """Return what determines the set, JSON-able and without reading it all into memory."""

    def read(self) -> LabelledSet:
        """Return the whole set."""


@dataclass
class LabelledTask(Task, ABC):
    """Texts or pairs of texts to classes or to a number, by a classifier of the library.

    metrics: of the held-out part beside its loss, by their names in `dwt_cli.evaluate.metrics`.
    with_errors: whether they come with their standard errors.
    """

    unit: ClassVar[str] = "text"
    pipeline_tag: ClassVar[str] = "text-classification"
    frame: ClassVar[Frame] = Frame(None, "sep_token")
    special_tokens: ClassVar[tuple[str, ...]] = ()
    with_errors: ClassVar[bool] = False

    # of models and tokenizers that are made: none is, and the scale asks for them
    family: Family = bookkeeping(Family.modernbert)
    tokenizer: TokenizerKind = bookkeeping(TokenizerKind.wordpiece)

    @property
    def labelled(self) -> LabelledTask:
        return self

    @property
    def head(self) -> Classes:
        return Classes(self.names)

    @cached_property
    @abstractmethod
    def source(self) -> LabelledSource:
        """The set itself, opened."""

    @cached_property
    def examples(self) -> LabelledSet:
        """The whole set, read once."""
        return self.source.read()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; none of a regression."""
        return self.examples.names

    @property
    def is_regression(self) -> bool:
        """True where labels are numbers that are predicted."""
        return False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of its held-out parts."""
        return ("pearson", "spearman") if self.is_regression else ("accuracy",)

    @property
    def loss_unit(self) -> str:
        return "squared error per text" if self.is_regression else super().loss_unit

    def num_targets(self, block_length: int) -> int:
        """Return 1: the text itself."""
        return 1

    def targets(self, tokenizer: PreTrainedTokenizerBase) -> Targets:
        raise AssertionError("labelled texts are no blocks")


@dataclass
class Classification(LabelledTask):
    """Labelled texts of one's own.

    path, dev_path: rows of .jsonl, .json, .csv or .parquet, to be trained on and held out; without
    a dev_path a share of the rows is held out. text_columns: one, or two for pairs. regression:
    labels are numbers, which are predicted by their squared error; else they are classes.
    """

    path: str = bookkeeping(MISSING)  # the files' sums count, not where they lie
    dev_path: str | None = bookkeeping(None)
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    dev_share: float = between(0.01, 0.5, 0.1)
    regression: bool = added(False)

    @property
    def is_regression(self) -> bool:
        return self.regression

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.regression else super().names

    @cached_property
    def source(self) -> OwnFiles:
        columns = Columns(self.text_columns, self.label_column, self.regression)
        return OwnFiles(self.path, self.dev_path, columns, self.dev_share)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line where there are no texts, or more than a model reads together."""
        if not 1 <= len(self.text_columns) <= 2:
            yield (
                f"{setting}.text_columns={self.text_columns}: name one column, or two for pairs "
                "of texts"
            )


@dataclass
class GlueTask(LabelledTask):
    """One of GLUE's tasks (1804.07461), with its classes, metrics and dev set.

    name: as RTE. path: the folder of TSV files that has it; null: nyu-mll/glue of the hub.
    """

    name: str = MISSING
    path: str | None = bookkeeping(None)

    @property
    def task(self) -> glue.Task:
        """What is known of it."""
        return glue.TASKS[self.name]

    @cached_property
    def source(self) -> glue.GlueSet:
        return glue.GlueSet(self.task, self.path)

    @property
    def names(self) -> tuple[str, ...]:
        return self.task.labels

    @property
    def is_regression(self) -> bool:
        return not self.names

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().metrics, *self.task.metrics)))

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line for a task that there is not."""
        if self.name not in glue.TASKS:
            yield not_among(f"{setting}.name={self.name}", "task", self.name, list(glue.TASKS))


@dataclass
class Packages(LabelledTask):
    """Which package a paragraph of the installed documentation is from; nothing is downloaded.

    packages: import names, the classes. num_train, num_heldout: at most so many paragraphs of
    each; held-out ones are from other source files.
    """

    packages: list[str] = field(default_factory=lambda: list(PACKAGES))
    num_train: int = at_least(2, 500)
    num_heldout: int = at_least(1, 100)

    @cached_property
    def source(self) -> PackageTexts:
        return PackageTexts(self.packages, self.num_train, self.num_heldout)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.packages)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield a line where there is nothing to tell apart."""
        if len(set(self.packages)) < max(2, len(self.packages)):
            named = ",".join(self.packages)
            yield f"{setting}.packages=[{named}]: name two or more packages, each once"
