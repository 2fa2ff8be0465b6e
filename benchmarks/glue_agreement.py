"""The project's fine-tuning against transformers' own Trainer, as its run_glue.py uses it.

Same checkpoint, examples, hyper-parameters and number of seeds; what differs is the loop, the
order of the examples (bucketed by length here, shuffled there) and the new head's random numbers.
So scores agree to seed noise, and no further. Needs ``pip install accelerate``.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from dwt_cli.base.randomness import generator
from dwt_cli.data.glue import TASKS, Split, Task, read
from dwt_cli.evaluate.finetuning import PROTOCOLS, FineTuning, fine_tune
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.metrics import METRICS
from dwt_cli.evaluate.options import Protocol
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.checkpoint import open_folder
from dwt_cli.models.options import Head
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.tasks.texts import Texts
from dwt_cli.training.options import Falling

_WARMUP, _MAX_LENGTH = 0.1, 128


def main() -> None:
    options = _options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    protocol = PROTOCOLS[Protocol.quick]
    cpu = torch.device("cpu")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tested = EvaluatedModel(
        open_folder(options.model, Head.masked), tokenizer, MaskedLM(), "", cpu, torch.float32
    )
    rows = []
    for name in options.tasks:
        task = TASKS[name]
        train = _texts(tested, task, task.train, options)
        dev = _texts(tested, task, task.dev[0], options)
        metric = METRICS[task.metrics[0]]
        for system, run in (("project", _ours), ("Trainer", _theirs)):
            found = []
            for seed in range(options.seeds):
                outputs_NC = run(tested, options.model, train, dev, protocol, seed)
                found.append(100 * metric(dev.labels, outputs_NC.argmax(axis=1)))
                print(f"{name} {system} seed {seed}: {found[-1]:.1f}", flush=True)
            rows.append((name, task.metrics[0], system, found))
    print("\n".join([*provenance(), "", *_table(rows)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder in the hub's format")
    parser.add_argument("--glue", required=True, help="the folder with CoLA, SST-2 ...")
    parser.add_argument("--tasks", nargs="+", default=["SST-2", "RTE", "CoLA"])
    parser.add_argument("--examples", type=int, default=1000, help="of each split, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _texts(tested: EvaluatedModel, task: Task, split: Split, options: argparse.Namespace) -> Texts:
    examples = read(task, split, options.glue, "--glue")
    chosen = generator(0).permutation(len(examples.texts))[: options.examples]
    labels = np.array(examples.labels, dtype=np.int64)[chosen]
    chosen_texts = [examples.texts[n] for n in chosen]
    limit = min(_MAX_LENGTH, num_positions(tested.model.config))
    texts, _ = Texts.tokenised(tested.tokenizer, chosen_texts, labels, limit)
    return texts


def _ours(
    tested: EvaluatedModel, model: Path, train: Texts, dev: Texts, protocol: FineTuning, seed: int
) -> Any:
    (optim,) = protocol.optims
    optim = replace(optim, warmup=_WARMUP, decay=1 - _WARMUP, falling=Falling.cosine)
    with tempfile.TemporaryDirectory() as folder:
        (outputs,), _ = fine_tune(
            tested, train, [dev], 2, optim, protocol, seed,
            Path(folder), lambda share, text: None, print,
        )  # fmt: skip
    return outputs


def _theirs(
    tested: EvaluatedModel, model: Path, train: Texts, dev: Texts, protocol: FineTuning, seed: int
) -> Any:
    (optim,) = protocol.optims
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=optim.lr,
            per_device_train_batch_size=protocol.batch_size,
            per_device_eval_batch_size=64,
            num_train_epochs=protocol.epochs,
            lr_scheduler_type="cosine",
            warmup_steps=round(_WARMUP * protocol.epochs * -(-len(train) // protocol.batch_size)),
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
                model, num_labels=2, dtype=torch.float32
            ),
            args=arguments,
            train_dataset=_rows(train),
            eval_dataset=_rows(dev),
            data_collator=DataCollatorWithPadding(tested.tokenizer),
        )
        trainer.train()
        return trainer.predict(_rows(dev)).predictions


def _rows(texts: Texts) -> Any:
    rows = [
        {"input_ids": list(ids), "attention_mask": [1] * len(ids), "labels": int(label)}
        for ids, label in zip(texts.ids, texts.labels, strict=True)
    ]
    for row, segments in zip(rows, texts.segments, strict=True):
        row["token_type_ids"] = list(segments)
    return rows


def _table(rows: Sequence[tuple[str, str, str, list[float]]]) -> Iterator[str]:
    seeds = range(len(rows[0][3]))
    heads = ["task", "metric", "loop", *(f"seed {seed}" for seed in seeds), "mean", "stdev"]
    yield f"| {' | '.join(heads)} |"
    yield f"| --- | --- | --- |{' ---: |' * (len(heads) - 3)}"
    for task, metric, system, found in rows:
        numbers = [*found, statistics.fmean(found), statistics.stdev(found)]
        yield f"| {task} | {metric} | {system} | {' | '.join(f'{n:.1f}' for n in numbers)} |"


if __name__ == "__main__":
    main()
