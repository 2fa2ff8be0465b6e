"""`dwt-train task=classification` against transformers' own Trainer: do both fine-tune alike?

For each task and seed, the same checkpoint, texts and settings (those of an `eval.glue.protocol`)
in both, paired by seed. Steps on the same batches are alike (`tests/recipe/test_trainer.py`). What
differs is the order of the texts (bucketed by length here, shuffled there), the few that fill no
batch (left out here) and the new head's random numbers; so accuracies can agree to the noise of
seeds, and no further. A task counts where a model of another seed is above the majority class by
three standard errors beforehand; the first three such tasks do.

The verdict of a task: equivalent, if the 90% interval of the mean difference is within one point
(two one-sided t tests at 5%), else that interval. Results stay in `--out`, those of each commit
by themselves: what is stopped goes on.
Needs ``pip install accelerate``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from provenance import commit, provenance
from scipy import stats
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from dwt_cli.base.identity import fingerprint
from dwt_cli.data.glue import TASKS, GlueSet
from dwt_cli.data.labelled import Examples
from dwt_cli.evaluate.finetuning import PROTOCOLS
from dwt_cli.evaluate.options import Protocol
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.options import provenance as of_model

_MAX_LENGTH, _MARGIN, _SCREENED_BY = 128, 1.0, 1000
_NUM_TASKS, _ABOVE = 3, 3.0  # standard errors


class Task(NamedTuple):
    """A task of the comparison, as files of rows. majority: accuracy of the largest class, in %."""

    name: str
    folder: Path
    train: Examples
    dev: Examples
    majority: float

    def error(self, accuracy: float) -> float:
        """Return the standard error of an accuracy over the dev texts, both in %."""
        return float(np.sqrt(accuracy * (100 - accuracy) / len(self.dev.labels)))


def main() -> None:
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    counted: list[Task] = []
    for name in options.tasks:
        if len(counted) == _NUM_TASKS:
            break
        task = _task(name, options)
        beforehand = _accuracy(task, "project", _SCREENED_BY, options)
        above = (beforehand - task.majority) / task.error(task.majority)
        print(f"{name}: {beforehand:.1f}, {above:.1f} standard errors above {task.majority:.1f}")
        if above >= _ABOVE or options.all:
            counted.append(task)
    rows = [
        (task, _found(task, "project", options), _found(task, "Trainer", options))
        for task in counted
    ]
    print("\n".join([*provenance(), "", *_table(rows)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder in the hub's format")
    parser.add_argument("--glue", required=True, help="the folder with CoLA, SST-2 ...")
    classes = [name for name, task in TASKS.items() if task.labels]
    tasks = ["SST-2", "QNLI", "QQP", "CoLA", "RTE"]
    parser.add_argument("--tasks", nargs="+", choices=classes, default=tasks)
    parser.add_argument("--all", action="store_true", help="count tasks at chance, too")
    parser.add_argument("--examples", type=int, help="of each split, at most")
    parser.add_argument("--protocol", choices=[each.name for each in Protocol], default="quick")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"))
    return parser.parse_args()


def _task(name: str, options: argparse.Namespace) -> Task:
    source = GlueSet(TASKS[name], options.glue, "--glue", options.examples, options.examples)
    determined = fingerprint(of_model(str(options.model)), source.content(), commit())
    folder, whole = options.out / f"{name}-{determined}", source.read()
    dev = next(iter(whole.heldout.values()))
    folder.mkdir(exist_ok=True)
    for part, examples in (("train", whole.train), ("dev", dev)):
        rows = [
            {**dict(zip("ab", texts, strict=False)), "label": int(label)}
            for texts, label in zip(examples.texts, examples.labels, strict=True)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    counts = np.bincount(np.array(dev.labels, dtype=np.int64))
    return Task(name, folder, whole.train, dev, 100 * float(counts.max() / counts.sum()))


def _found(task: Task, system: str, options: argparse.Namespace) -> list[float]:
    return [_accuracy(task, system, seed, options) for seed in range(options.seeds)]


def _accuracy(task: Task, system: str, seed: int, options: argparse.Namespace) -> float:
    """Return an accuracy on the dev part, in %, measured now or on record."""
    file = task.folder / f"{system}-{options.protocol}-{seed}.json"
    if not file.exists():
        run = _ours if system == "project" else _theirs
        found = 100 * run(task, seed, options)
        file.write_text(json.dumps(found), encoding="utf-8")
        print(f"{task.name} {system} seed {seed}: {found:.1f}", flush=True)
    return float(json.loads(file.read_text(encoding="utf-8")))


def _length(options: argparse.Namespace) -> int:
    """Return the tokens that a text is cut to, in both systems."""
    return min(_MAX_LENGTH, num_positions(AutoConfig.from_pretrained(options.model)))


def _ours(task: Task, seed: int, options: argparse.Namespace) -> float:
    protocol = PROTOCOLS[Protocol[options.protocol]]
    optim, root = protocol.optims[0], task.folder / "runs"
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    words = {
        "task": "classification",
        "task.path": task.folder / "train.jsonl",
        "task.dev_path": task.folder / "dev.jsonl",
        "task.text_columns": f"[{','.join('ab'[: len(task.train.texts[0])])}]",
        "student": "checkpoint",
        "student.path": options.model,
        "teacher": "none",
        "scale.vocab_size": config["vocab_size"],
        "scale.block_length": _length(options),
        "scale.batch_size": protocol.batch_size,
        "train.max_steps": "null",
        "train.epochs": protocol.epochs,
        "train.precision": "fp32",
        "eval.every": "null",
        "optim": "adamw",
        "optim.lr": optim.lr,
        "optim.betas": f"[{optim.betas[0]},{optim.betas[1]}]",
        "optim.eps": optim.eps,
        "optim.weight_decay": optim.weight_decay,
        "optim.clip_norm": optim.clip_norm,
        "optim.warmup": optim.warmup,
        "optim.decay": optim.decay,
        "optim.falling": optim.falling.name,
        "seed": seed,
        "run.root": root,
        "run.name": f"seed{seed}-{options.protocol}",
        "tracker": "none",
        "launch.device": "cpu",
        "launch.num_threads": options.threads,
    }
    command = [f"{name}={value}" for name, value in words.items()]
    subprocess.run([sys.executable, "-m", "dwt_cli.cli", *command], check=True)
    (summary,) = root.glob(f"seed{seed}-{options.protocol}-*/summary.json")
    found = json.loads(summary.read_text(encoding="utf-8"))
    return float(found["student"]["heldout"]["accuracy"])


def _theirs(task: Task, seed: int, options: argparse.Namespace) -> float:
    protocol, num_classes = PROTOCOLS[Protocol[options.protocol]], len(TASKS[task.name].labels)
    optim, tokenizer = protocol.optims[0], AutoTokenizer.from_pretrained(options.model)
    num_steps = protocol.epochs * -(-len(task.train.labels) // protocol.batch_size)

    def rows(examples: Examples) -> Any:
        columns = [list(column) for column in zip(*examples.texts, strict=True)]
        read = tokenizer(*columns, truncation=True, max_length=_length(options))
        return [
            {**{name: read[name][number] for name in read}, "labels": int(label)}
            for number, label in enumerate(examples.labels)
        ]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=optim.lr,
            per_device_train_batch_size=protocol.batch_size,
            per_device_eval_batch_size=64,
            num_train_epochs=protocol.epochs,
            lr_scheduler_type=optim.falling.name,
            warmup_steps=round(optim.warmup * num_steps),
            weight_decay=optim.weight_decay,
            adam_beta1=optim.betas[0],
            adam_beta2=optim.betas[1],
            adam_epsilon=optim.eps,
            max_grad_norm=optim.clip_norm,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            model_init=lambda: AutoModelForSequenceClassification.from_pretrained(
                options.model, num_labels=num_classes, dtype=torch.float32
            ),
            args=arguments,
            train_dataset=rows(task.train),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        outputs_NC: Any = trainer.predict(rows(task.dev)).predictions
    return float((outputs_NC.argmax(axis=1) == np.array(task.dev.labels)).mean())


def _table(rows: Sequence[tuple[Task, list[float], list[float]]]) -> Iterator[str]:
    yield "| task | dev | majority | project | Trainer | difference, 90% interval | verdict |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for task, ours, theirs in rows:
        apart = np.subtract(ours, theirs)
        mean, error = float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))
        half = float(stats.t.ppf(0.95, len(apart) - 1)) * error
        low, high = mean - half, mean + half
        means = " | ".join(_with_error(found) for found in (ours, theirs))
        within = low > -_MARGIN and high < _MARGIN
        verdict = f"equivalent within {_MARGIN:g} point" if within else "not shown"
        majority = f"{task.majority:.1f} ± {task.error(task.majority):.1f}"
        yield (
            f"| {task.name} | {len(task.dev.labels):,} | {majority} | {means} | "
            f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] | {verdict} |"
        )


def _with_error(found: Sequence[float]) -> str:
    """Return a mean and its standard error over seeds."""
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    return f"{np.mean(found):.1f} ± {error:.1f}"


if __name__ == "__main__":
    main()
