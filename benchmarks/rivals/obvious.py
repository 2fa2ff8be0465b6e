"""What most distillation scripts do, in fp32.

Both transformers models are called on ids and attention mask and return the logits of all
positions; the loss is `cross_entropy` with ignore_index=-100 plus `kl_div(log_softmax(student),
softmax(teacher))` on the targets, picked by a boolean index where not all positions are targets;
then gradient clipping and `torch.optim.AdamW` as it comes. In its favour: its batches are masked
beforehand (the project masks inside the timed step), and its teacher runs in eval mode under
no_grad.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from rivals.problem import IGNORED, Given, Inputs, Problem, Turnstile


def distilling_losses(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, problem: Problem
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL(teacher || student), each a mean over the targets."""
    ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
    logits = student(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad():
        teacher_logits = teacher(input_ids=ids, attention_mask=mask).logits
    if problem.causal:
        logits, teacher_logits, labels = logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:]
    hard = cross_entropy(logits.reshape(-1, logits.size(-1)), labels.reshape(-1))
    chosen = slice(None) if problem.causal else labels != IGNORED
    soft = kl_div(
        log_softmax(logits[chosen].flatten(0, -2) / problem.temperature, dim=-1),
        softmax(teacher_logits[chosen].flatten(0, -2) / problem.temperature, dim=-1),
        reduction="batchmean",
    )
    return hard, soft


def main() -> None:
    given, turnstile = Given.here(), Turnstile()
    problem = given.problem
    student, teacher = given.models()
    optimizer = torch.optim.AdamW(
        student.parameters(),
        lr=problem.lr,
        betas=problem.betas,
        eps=problem.eps,
        weight_decay=problem.weight_decay,
    )
    turnstile.wait()
    for inputs in given.batches():
        hard, soft = distilling_losses(student, teacher, inputs, problem)
        (hard + soft).backward()
        nn.utils.clip_grad_norm_(student.parameters(), problem.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        turnstile.passed(hard)


if __name__ == "__main__":
    main()
