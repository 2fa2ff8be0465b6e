"""transformers' Trainer as its users write it: bf16, and a compute_loss that distils.

The loss is that of the obvious script. All else is the Trainer's own, its loader, collator and
optimiser included, but for what makes it the same training (the rates, a constant schedule, blocks
in order) and what would not be timed anyway (logs, checkpoints).

    pip install accelerate
"""

import tempfile
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from rivals.obvious import distilling_losses
from rivals.problem import DEVICE, Given, Inputs, Problem, Turnstile


class DistillingTrainer(Trainer):
    teacher: nn.Module
    problem: Problem
    hard_loss: Tensor

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        hard, soft = distilling_losses(model, self.teacher, inputs, self.problem)
        self.hard_loss = hard.detach()
        return hard + soft


class EachStep(TrainerCallback):
    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.trainer: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turnstile.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turnstile.passed(self.trainer.hard_loss)


def main() -> None:
    given, each_step = Given.here(), EachStep(Turnstile())
    problem, (student, teacher) = given.problem, given.models()
    samples, batch_size = given.samples()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=DEVICE.type == "cpu",
            bf16=True,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=problem.lr,
            weight_decay=problem.weight_decay,
            adam_beta1=problem.betas[0],
            adam_beta2=problem.betas[1],
            adam_epsilon=problem.eps,
            max_grad_norm=problem.clip_norm,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
        )
        trainer = DistillingTrainer(
            model=student, args=arguments, train_dataset=samples, callbacks=[each_step]
        )
        trainer.teacher, trainer.problem, each_step.trainer = teacher, problem, trainer
        trainer.train()


if __name__ == "__main__":
    main()
