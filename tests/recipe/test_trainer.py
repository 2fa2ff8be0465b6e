"""A fine-tuning beside transformers' own Trainer: one start, the same batches in the same order."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from dwt_cli.config.run import Run
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.checkpoint import save_model
from dwt_cli.models.making import make_model
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.samples import train_batches
from tests.conftest import tiny_architecture
from tests.recipe.test_labelled import words_of, write
from tests.record import carry_out, metrics

NUM_STEPS, LENGTH = 20, 10
OPTIM = {
    "lr": "5e-3",
    "betas": "[0.9,0.999]",
    "eps": "1e-8",
    "weight_decay": "0.1",
    "clip_norm": "0.5",
    "warmup": "0.1",
    "decay": "0.9",
    "falling": "cosine",
}


class InOrder(Trainer):
    """The Trainer, which takes its rows as they come."""

    def _get_train_sampler(self, *given: Any, **named: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def by_trainer(place: Path, rows: list[Any], weights: dict[str, Any]) -> tuple[list[Any], Any]:
    """Return what the Trainer logs of each step on these rows, and its weights at the end."""
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    names = sorted({row["label"] for row in rows})
    given = [
        {
            **tokenizer(row["text"], truncation=True, max_length=LENGTH),
            "labels": names.index(row["label"]),
        }
        for row in rows
    ]
    model = AutoModelForSequenceClassification.from_pretrained(
        place / "model", num_labels=len(names), dtype=torch.float32
    )
    model.load_state_dict(weights)
    arguments = TrainingArguments(
        output_dir=str(place / "trainer"),
        learning_rate=5e-3,
        per_device_train_batch_size=8,
        max_steps=NUM_STEPS,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        weight_decay=0.1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=0.5,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
    )
    collate = DataCollatorWithPadding(tokenizer)
    trainer = InOrder(model=model, args=arguments, train_dataset=given, data_collator=collate)
    trainer.train()
    return [line for line in trainer.state.log_history if "grad_norm" in line], model.state_dict()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("accelerate") is None, reason="the Trainer needs accelerate")
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_every_step_is_the_trainers(
    composed: Callable[..., Run], corpus: Corpus, tmp_path: Path, family: str
) -> None:
    """Losses, norms of gradients, rates, and the weights at the end, over more than an epoch."""
    write(tmp_path / "train.jsonl", 90, seed=0)
    write(tmp_path / "dev.jsonl", 21, seed=1)
    model = make_model(tiny_architecture(family), 0, "student")
    save_model(model, corpus.tokenizer, tmp_path / "model")
    optim = [f"optim.{name}={value}" for name, value in OPTIM.items()]
    words = [f"scale.block_length={LENGTH}", f"scale.max_steps={NUM_STEPS}", "train.log_every=1"]
    run = composed(*words_of(tmp_path, *words, *optim, student="model"))
    run.overrides = []
    folder, _ = carry_out(run)

    stage = recipe_of(composed(*words_of(tmp_path, *words, *optim, student="model")))
    weights = {name: each.clone() for name, each in stage.start()[0].state_dict().items()}
    batches = train_batches(stage.shapes.conditions, stage.corpus.texts, 0, "student")
    drawn = [batches.batch(step).places_B3[:, 0].tolist() for step in range(NUM_STEPS)]
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    rows = [json.loads(lines[number]) for batch in drawn for number in batch]

    theirs, wanted = by_trainer(tmp_path, rows, weights)
    ours = [line for line in metrics(folder) if "train/loss" in line]
    assert len(ours) == len(theirs) == NUM_STEPS
    for our, their in zip(ours, theirs, strict=True):
        assert our["train/loss"] == pytest.approx(their["loss"], rel=1e-4)
        assert our["train/grad_norm"] == pytest.approx(their["grad_norm"], rel=1e-3)
        assert our["train/lr"] * 5e-3 == pytest.approx(their["learning_rate"], rel=1e-6)
    found = AutoModelForSequenceClassification.from_pretrained(folder / "model").state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
        moved = name.endswith("weight") and tensor.is_floating_point()
        assert not moved or not torch.equal(tensor, weights[name]), name
