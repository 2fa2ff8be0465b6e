"""Miniature compositions of all that a training is made of; text and checkpoint lie beside them."""

from pathlib import Path

from tests.miniature import SCALE, write_text

NUM_STEPS = 5

_NARROW_TEACHER = [
    "scale.teacher_width=8",
    "scale.teacher_num_heads=1",
    "scale.teacher_mlp_width=8",
]

ALONE = {
    "bert, alone": ["scale.family=bert", "teacher=none", "optim=adamw"],
    "modernbert, alone": ["teacher=none", "task.mask_ratio=0.3", "optim=adamw"],
}

TAUGHT = {
    "bert, logits": ["scale.family=bert", "optim=adamw", "objective.logits.temperature=2"],
    "modernbert, reverse_kl, muon": ["objective=reverse_kl", "alpha=wsd", "optim=muon"],
    "logits and minilmv2": ["objective=[logits,minilmv2]", "objective.minilmv2.weight=0.1"],
    "hidden, micro-batches": ["objective=hidden", "train.micro_batch_size=4", "optim=adamw"],
    "top_k, revised and selected": [
        "objective=top_k", "revise=label_revision", "select=confident", "select.threshold=0.01",
    ],
    "mse and let, gate, dropout": [
        "objective=[mse,let]", "alpha=gate", "revise=confidence_mix", "student.dropout=0.1",
    ],
    "paper": ["scale.family=bert", "remap=paper", "objective=jensen_shannon"],
    "stack, overtake, skip": ["remap=stack", "alpha=overtake", "train.non_finite=skip"],
    "lemon": ["remap=lemon", "teacher.num_layers=3", *_NARROW_TEACHER],
    "net2net": ["scale.family=bert", "remap=net2net", "alpha=off", *_NARROW_TEACHER],
    "ligo": ["remap=ligo", "remap.steps=3", *_NARROW_TEACHER],
    "several teachers": [
        "teacher=several", "teacher.members=[very_weak,small,virtual]",
        "teacher.weights=[1,2,1]", "teacher.weighting=token",
    ],
    "a budget and a temperature": ["teacher=very_weak", "teacher.budget=0.5",
                                   "teacher.temperature=2", "optim.falling=cosine"],
}  # fmt: skip

OPENED = {
    "a checkpoint learns": ["student=checkpoint", "student.path=model", "alpha=inherit"],
    "a checkpoint teaches": ["teacher=checkpoint", "teacher.path=model", "alpha=step"],
}
"""These open the folder ``model``."""

_RANKS = ["launch=torchrun", "launch.gpus=2"]
TOGETHER = {
    "2 ranks, ddp": [*_RANKS, "parallel=ddp", "objective=[logits,hidden]"],
    "2 ranks, fsdp": [*_RANKS, "parallel=fsdp", "parallel.shard_teacher=true"],
}


def place(kept: str, name: str) -> str:
    """Name the folder of a miniature's run, below one of all."""
    return f"{kept}/{name.replace(',', '').replace(' ', '-')}"


def command(name: str, words: list[str], kept: str) -> list[str]:
    """Build the whole command, to be given in the folder that `prepare` has made."""
    # what several ranks have made differs in its last bit, and whoever comes later would find it
    cache = place(kept, f"cache of {name}") if name in TOGETHER else f"{kept}/cache"
    return [
        *SCALE,
        "scale.num_layers=4",
        "scale.teacher_num_layers=2",
        f"scale.max_steps={NUM_STEPS}",
        "data=files",
        "data.path=text",
        "data.heldout_fraction=0.2",
        "train.precision=fp32",
        "launch.device=cpu",
        f"run.root={place(kept, name)}",
        f"run.cache={cache}",
        *words,
    ]


def prepare(folder: Path) -> None:
    """Write the text."""
    write_text(folder / "text", num_documents=30)
