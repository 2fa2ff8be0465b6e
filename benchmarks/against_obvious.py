"""How much faster is the project's DWT step than the obvious one? The goal is 4 times, in tokens/s.

Student 6 layers x 256 wide, teacher 4 layers, vocabulary 8192, 32 blocks of 128 tokens, bert and
modernbert, the same family on both sides. The same initial weights, batches and AdamW settings.

The obvious step is what most distillation scripts do: both transformers models are called on ids
and attention mask and return the logits of all positions, in fp32; the loss is `cross_entropy`
with ignore_index=-100 plus `kl_div(log_softmax(student), softmax(teacher))` on the masked
positions, picked by a boolean index; then gradient clipping and `torch.optim.AdamW` as it comes.
In its favour: its batches are masked beforehand (the project masks inside the timed step), its
teacher runs in eval mode under no_grad, and it clips and steps like the project.

The project's step is the loop's own at train.precision=auto: bf16 where the hardware multiplies it
natively; one row is compiled (train.compile=true). On a CPU the obvious step runs in a process of
its own, as a script would, so that it does not profit from what the project does to its process
(it has glibc keep freed memory). `--more` adds rows that tell where the difference comes from: the
project in fp32, the obvious step under bf16 autocast, and transformers' Trainer with a distilling
compute_loss in both precisions (its own defaults elsewhere; needs `pip install accelerate`; the
time from one step's end to the next, its data loading included).

How to read it: tokens/s are of the median step; "faster by" is the row's seconds per step over the
project's in the same round. Before anything is timed, the two losses of one batch are compared in
fp32: they must agree.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import torch
from parts import Parts, Steps, compose_run
from provenance import provenance
from timing import SMOKE, Timed, in_turn, ratios, spread, table, timed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from dwt_cli.base.machine import Machine
from dwt_cli.base.options import Precision
from dwt_cli.config.run import Run
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.models.making import make_model
from dwt_cli.models.options import MadeStudent
from dwt_cli.training.protocols import Moment

GOAL = 4.0
FAMILIES = ("bert", "modernbert")
_SETTING = (
    "optim=adamw",
    "alpha=normal",
    "scale.width=256",
    "scale.num_heads=4",
    "scale.mlp_width=1024",
    "scale.vocab_size=8192",
    "scale.block_length=128",
    "train.batch_size=32",
)
_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.vocab_size=512",
    "scale.block_length=32",
    "train.batch_size=8",
)
_PROJECT, _OBVIOUS = "project", "obvious, fp32"
_COMPILED = "project, compiled"
_TOLERANCE = 1e-4  # of the fp32 loss, relative

Inputs = dict[str, Tensor]


# ------------------------------------------------------------------------- the obvious version


def distilling_loss(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, temperature: float
) -> Tensor:
    """Cross-entropy plus KL(teacher || student), each a mean over the masked positions."""
    ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
    logits = student(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad():
        teacher_logits = teacher(input_ids=ids, attention_mask=mask).logits
    masked = labels != -100
    hard = cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1), ignore_index=-100)
    soft = kl_div(
        log_softmax(logits[masked] / temperature, dim=-1),
        softmax(teacher_logits[masked] / temperature, dim=-1),
        reduction="batchmean",
    )
    return hard + soft


class ObviousSteps:
    """One step of the obvious training per call."""

    def __init__(self, parts: Parts, bf16: bool) -> None:
        run = parts.run
        self._run, self._bf16, self._device = run, bf16, parts.machine.device
        self._student, self._teacher = _models(run, self._device)
        self._optimizer = torch.optim.AdamW(
            self._student.parameters(),
            lr=run.optim.lr,
            betas=run.optim.betas,
            eps=run.optim.eps,
            weight_decay=run.optim.weight_decay,
        )
        self._inputs = masked_beforehand(parts)
        self._step = 0

    def __call__(self) -> None:
        self._student.train()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self._student.parameters(), self._run.optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    def loss(self) -> Tensor:
        inputs = self._inputs[self._step % len(self._inputs)]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return distilling_loss(self._student, self._teacher, inputs, _temperature(self._run))


class InItsOwnProcess:
    """Seconds of one obvious step in fp32 per call, taken in a process that does nothing else."""

    def __init__(self, run: Run) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(run, theirs), daemon=True)
        self._process.start()

    def __call__(self) -> float:
        self._ours.send("step")
        seconds: float = self._ours.recv()
        return seconds


def _serve(run: Run, pipe: Connection) -> None:
    parts = Parts.of(run, Machine(torch.device("cpu"), torch.float32))  # memory as glibc has it
    measure = timed(ObviousSteps(parts, bf16=False), parts.machine.device)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while pipe.recv() == "step":
            pipe.send(measure())


class TrainerSteps:
    """Seconds per step of transformers' Trainer: a fresh one per call, its first step left out."""

    def __init__(self, parts: Parts, bf16: bool, num_steps: int) -> None:
        self._parts, self._bf16, self._num_steps = parts, bf16, num_steps
        self._student, self._teacher = _models(parts.run, parts.machine.device)
        self._samples = [
            {name: tensor[row].cpu() for name, tensor in inputs.items()}
            for inputs in masked_beforehand(parts)
            for row in range(len(inputs["input_ids"]))
        ]

    def __call__(self) -> float:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # it remembers one precision
        clock = _Clock()
        with tempfile.TemporaryDirectory() as folder:
            trainer = _DistillingTrainer(
                model=self._student,
                args=self._arguments(folder),
                train_dataset=self._samples,
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.teacher = self._teacher
            trainer.temperature = _temperature(self._parts.run)
            trainer.train()
        return statistics.median(clock.seconds())

    def _arguments(self, folder: str) -> TrainingArguments:
        run = self._parts.run
        return TrainingArguments(
            output_dir=folder,
            use_cpu=self._parts.machine.device.type == "cpu",
            bf16=self._bf16,
            max_steps=self._num_steps + 1,
            per_device_train_batch_size=run.train.batch_size,
            learning_rate=run.optim.lr,
            weight_decay=run.optim.weight_decay,
            adam_beta1=run.optim.betas[0],
            adam_beta2=run.optim.betas[1],
            adam_epsilon=run.optim.eps,
            max_grad_norm=run.optim.clip_norm,
            lr_scheduler_type="constant",
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )


class _DistillingTrainer(Trainer):
    teacher: nn.Module
    temperature: float

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        return distilling_loss(model, self.teacher, inputs, self.temperature)


class _Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [end - start for start, end in zip(self._ends, self._ends[1:], strict=False)]


def masked_beforehand(parts: Parts) -> list[Inputs]:
    """The project's own masked batches as a collator would hand them over."""
    device, inputs = parts.machine.device, []
    for step in range(round(parts.batches.steps_per_epoch)):
        batch = parts.batches.batch(step).to(device)
        labels = torch.full_like(batch.ids_BL, -100)
        labels.view(-1)[batch.rows_N] = batch.labels_N
        inputs.append(
            {
                "input_ids": batch.ids_BL,
                "labels": labels,
                "attention_mask": torch.ones_like(batch.ids_BL),
            }
        )
    return inputs


def _temperature(run: Run) -> float:
    objective = run.objective["logits"]
    assert isinstance(objective, ForwardKL)
    return objective.temperature


def _models(run: Run, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Student and teacher with the weights that the project's own begin with."""
    assert isinstance(run.teacher, MadeTeacher) and isinstance(run.student, MadeStudent)
    student: nn.Module = make_model(run.student, run.seed, "student")
    teacher: nn.Module = make_model(run.teacher, run.teacher.seed, "teacher")
    return student.to(device), teacher.to(device).eval()


# ------------------------------------------------------------------------------- the comparison


def compare(
    family: str, overrides: list[str], rounds: int, warm_up: int, more: bool, quick: bool
) -> list[str]:
    """The Markdown of one family."""
    run = compose_run([*_SETTING, f"scale.family={family}", *overrides])
    parts = Parts.of(run)
    difference = _loss_difference(run)
    assert difference < _TOLERANCE, f"{family}: the two losses differ by {difference:.1e}"
    seconds = in_turn(_rows(run, parts, more), rounds, warm_up)
    tokens = parts.batches.tokens_per_step
    gains = {
        row: {name: ratios(spent, seconds[row]) for name, spent in seconds.items()}
        for row in (_PROJECT, _COMPILED)
    }
    return [
        f"## {family}",
        "",
        *table(
            [
                "step",
                "tokens/s",
                "ms: median (min .. max)",
                "project faster by",
                "compiled faster by",
            ],
            [
                [
                    name,
                    f"{tokens / statistics.median(spent):,.0f}",
                    spread([1000 * s for s in spent], 1),
                    *("" if name == row else spread(gain[name], 2) for row, gain in gains.items()),
                ]
                for name, spent in seconds.items()
            ],
        ),
        "",
        f"The project computes in {str(parts.machine.dtype).removeprefix('torch.')}. The two fp32 "
        f"losses of one batch differ by {difference:.0e} of their value. "
        + (SMOKE if quick else _verdict({row: gain[_OBVIOUS] for row, gain in gains.items()})),
        "",
    ]


def _verdict(gains: dict[str, list[float]]) -> str:
    """The official ratios: medians over the rounds, of the project and of the project compiled."""
    said = [
        f"{row} {statistics.median(gain):.2f} times, "
        + ("met" if statistics.median(gain) >= GOAL else "not met")
        for row, gain in gains.items()
    ]
    return f"The goal, {GOAL:.0f} times the obvious step's tokens/s: {'; '.join(said)}."


def _rows(run: Run, parts: Parts, more: bool) -> dict[str, Timed]:
    def clock(work: Callable[[], object]) -> Timed:
        return timed(work, parts.machine.device)

    rows: dict[str, Timed] = {
        _PROJECT: clock(_project(parts)),
        _COMPILED: clock(_project(Parts.of(_compiled(run)))),
        _OBVIOUS: InItsOwnProcess(run)
        if parts.machine.device.type == "cpu"
        else clock(ObviousSteps(parts, bf16=False)),
    }
    if more:
        rows["project, fp32"] = clock(_project(Parts.of(_in_fp32(run))))
        rows["obvious, bf16 autocast"] = clock(ObviousSteps(parts, bf16=True))
        if find_spec("accelerate"):
            rows["Trainer, fp32"] = TrainerSteps(parts, bf16=False, num_steps=3)
            rows["Trainer, bf16"] = TrainerSteps(parts, bf16=True, num_steps=3)
    return rows


def _project(parts: Parts) -> Steps:
    return Steps(parts.training(parts.run.alpha, parts.signal()))


def _loss_difference(run: Run) -> float:
    """Of the first batch's loss, relative, both in fp32."""
    parts = Parts.of(_in_fp32(run))
    training = parts.training(run.alpha, parts.signal())
    ours = training.accumulate(0, Moment(0.0))["loss"]
    theirs = ObviousSteps(parts, bf16=False).loss().item()
    return abs(ours - theirs) / abs(theirs)


def _compiled(run: Run) -> Run:
    return replace(run, train=replace(run.train, compile=True))


def _in_fp32(run: Run) -> Run:
    return replace(run, train=replace(run.train, precision=Precision.fp32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are thrown away")
    parser.add_argument(
        "--more",
        action="store_true",
        help="also: project in fp32, obvious in bf16, transformers' Trainer",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, 2 rounds")
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=[],
        metavar="OVERRIDE",
        help="as for dwt-train, e.g. scale.width=512 train.batch_size=16",
    )
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    overrides = [*(_QUICK if options.quick else ()), *options.overrides]
    rounds, warm_up = (2, 1) if options.quick else (options.rounds, options.warm_up)
    lines = [
        "# The DWT step against the obvious one",
        "",
        *provenance(),
        f"- rounds: {rounds} in turn after {warm_up} of warm-up",
        "",
    ]
    if options.more and not find_spec("accelerate"):
        lines += ["The Trainer's rows are missing: `pip install accelerate` adds them.", ""]
    for family in options.families:
        lines += compare(family, overrides, rounds, warm_up, options.more, options.quick)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
