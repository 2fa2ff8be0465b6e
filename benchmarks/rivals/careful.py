"""A loop as a careful person writes it by hand for these models; tuned in `careful.md`.

bf16 autocast, a teacher whose weights are bf16; no padding, hence no attention mask; the attention
that is faster (plain products in training, SDPA in the teacher; on a GPU SDPA in both); the head
on target rows only; the teacher under inference mode; one log-softmax for both losses; fused
AdamW; freed memory is kept by glibc as in the project. ``--compile`` compiles the models and the
losses.
"""

import ctypes
import platform
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, nll_loss

from rivals.problem import DEVICE, IGNORED, Given, Turnstile


class OnRows(nn.Module):
    """Logits of the target rows alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.family = model.config.model_type

    def forward(self, ids_BL: Tensor, rows_N: Tensor) -> Tensor:
        model = self.model
        states_ND = model.base_model(ids_BL).last_hidden_state.flatten(0, 1)[rows_N]
        if self.family == "modernbert":
            states_ND = model.head(states_ND)
        output = {"bert": "cls", "modernbert": "decoder"}.get(self.family, "lm_head")
        logits_NV: Tensor = getattr(model, output)(states_ND)
        return logits_NV


def losses(logits_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    log_p_NV = log_softmax(logits_NV.float(), dim=-1)
    log_q_NV = log_softmax(teacher_NV.float(), dim=-1)
    hard = nll_loss(log_p_NV, labels_N)
    return hard, kl_div(log_p_NV, log_q_NV, reduction="batchmean", log_target=True)


def keep_freed_memory() -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def main() -> None:
    keep_freed_memory()
    given, turnstile = Given.here(), Turnstile()
    problem = given.problem
    assert problem.temperature == 1
    student, teacher = map(OnRows, given.models(attn_implementation="sdpa"))
    if DEVICE.type == "cpu":
        student.model.set_attn_implementation("eager")
    teacher.requires_grad_(False).to(torch.bfloat16)
    parameters = list(student.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=problem.lr,
        betas=problem.betas,
        eps=problem.eps,
        weight_decay=problem.weight_decay,
        fused=True,
    )
    both: Any = losses
    untracked: Any = torch.inference_mode
    if "--compile" in sys.argv:
        untracked = torch.no_grad  # a compiled backward pass cannot keep tensors of inference
        student.compile(dynamic=False)
        teacher.compile(dynamic=False)
        both = torch.compile(losses, dynamic=False)
    turnstile.wait()
    for inputs in given.batches():
        ids_BL, labels_BL = inputs["input_ids"], inputs["labels"]
        if problem.causal:
            labels_BL = nn.functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORED)
        rows_N = (labels_BL.flatten() != IGNORED).nonzero().squeeze(1)
        labels_N = labels_BL.flatten()[rows_N]
        with torch.autocast(DEVICE.type, torch.bfloat16):
            with untracked(), torch.autocast(DEVICE.type, enabled=False):
                teacher_NV = teacher(ids_BL, rows_N)
            logits_NV = student(ids_BL, rows_N)
        hard, soft = both(logits_NV, teacher_NV, labels_N)
        (hard + soft).backward()
        nn.utils.clip_grad_norm_(parameters, problem.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turnstile.passed(hard)


if __name__ == "__main__":
    main()
