"""TextBrewer's GeneralDistiller (arXiv 2002.12620) as its examples configure it.

That is fp32 (its fp16 needs apex), adaptors on the models' outputs with a mask for the logits, two
groups of AdamW, a scheduler made by `distiller.train`, scalars for TensorBoard; labels go to both
models, which compute their own loss. Temperature, weights and schedule are the problem's. Its KD
loss is the cross-entropy with the teacher's distribution, which has the gradient of the KL. Of
masked models alone: none of its examples is a decoder.

Release 0.2.1.post1, the newest, runs with torch 2.13, transformers 5.23 and Python 3.11, in an
environment of its own:

    python -m venv brewing && brewing/bin/pip install torch transformers accelerate textbrewer
    python benchmarks/against_rivals.py --python brewing/bin/python
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import get_constant_schedule

from rivals.problem import DEVICE, IGNORED, Given, Inputs, Turnstile


class EachStep:
    """A loader; asked for a batch, it knows that the step before is over."""

    def __init__(self, loader: Any, turnstile: Turnstile) -> None:
        self._loader, self._turnstile = loader, turnstile
        self.hard_loss = 0.0

    def __iter__(self) -> Iterator[Inputs]:
        self._turnstile.wait()
        for batch in self._loader:
            yield batch
            self._turnstile.passed(self.hard_loss)

    def __len__(self) -> int:
        return len(self._loader)


def main() -> None:
    given, turnstile = Given.here(), Turnstile()
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    problem, (student, teacher) = given.problem, given.models()
    assert not problem.causal, "none of its examples is a decoder"
    samples, batch_size = given.samples()
    loader = EachStep(DataLoader(samples, batch_size=batch_size), turnstile)  # type: ignore[arg-type]
    no_decay = ("bias", "LayerNorm.weight", "norm.weight")
    named = list(student.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for name, p in named if name.endswith(no_decay) == spared],
                "weight_decay": 0.0 if spared else problem.weight_decay,
            }
            for spared in (False, True)
        ],
        lr=problem.lr,
        betas=problem.betas,
        eps=problem.eps,
    )

    def adaptor_of_teacher(batch: Inputs, outputs: Any) -> dict[str, Any]:
        return {"logits": outputs.logits, "logits_mask": batch["labels"] != IGNORED}

    def adaptor_of_student(batch: Inputs, outputs: Any) -> dict[str, Any]:
        loader.hard_loss = outputs.loss.detach()
        return {**adaptor_of_teacher(batch, outputs), "losses": outputs.loss}

    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            TrainingConfig(log_dir=folder, output_dir=folder, device=DEVICE),
            DistillationConfig(
                temperature=problem.temperature, hard_label_weight=1, kd_loss_weight=1
            ),
            teacher,
            student,
            adaptor_of_teacher,
            adaptor_of_student,
        )
        with distiller:
            distiller.train(
                optimizer,
                loader,
                num_epochs=1,
                scheduler_class=get_constant_schedule,
                scheduler_args={},
                max_grad_norm=problem.clip_norm,
            )


if __name__ == "__main__":
    main()
