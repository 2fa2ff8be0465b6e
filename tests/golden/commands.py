"""The commands whose identities are kept: all on record, every choice, every arm, and mixtures."""

import csv
import shlex
from functools import cache
from typing import Any

import yaml

from dwt_cli.config.files import SWEEPS, groups, sweeps

_NARROW_TEACHER = "scale.teacher_width=64 scale.teacher_num_heads=1 scale.teacher_mlp_width=128"

_ROWS = "signal.path=rows.jsonl signal.tokenizer=0123 task=clm objective=top_k alpha=normal"

NEEDED = {
    "data=files": "data.path=text",
    "teacher=made": "teacher.num_layers=3",
    "teacher=checkpoint": "teacher.path=model",
    "teacher=several": "teacher.members=[very_weak,virtual]",
    "teacher=self": "objective=self_features",
    "objective=self_features": "teacher=self",
    "student=checkpoint": "student.path=model",
    "tuning=lora": "student=checkpoint student.path=model teacher=none",
    "tuning=dsee": "student=checkpoint student.path=model teacher=none",
    "task=classification": "task.path=labelled.jsonl student=checkpoint student.path=model "
    "teacher=none",
    "task=glue": "task.name=RTE task.path=. student=checkpoint student.path=model teacher=none",
    "task=packages": "student=checkpoint student.path=model teacher=none",
    "signal=top_k": "objective=top_k",
    "signal=imported": _ROWS,
    "teacher=imported": f"signal=imported {_ROWS}",
    "objective=alm": "task=clm",
    "objective=uld": "task=clm",
    "remap=aki": _NARROW_TEACHER,
    "remap=decorrelated": _NARROW_TEACHER,
    "remap=fpi": _NARROW_TEACHER,
    "remap=lemon": _NARROW_TEACHER,
    "remap=ligo": _NARROW_TEACHER,
    "remap=net2net": _NARROW_TEACHER,
    "remap=tile": _NARROW_TEACHER,
    "launch=torchrun": "launch.gpus=2",
    "launch=slurm": "launch.gpus=2",
}
"""What a choice asks for besides its name. `text` and `model`: see `identities.pinned`."""

MIXTURES = [
    "",
    "seed=3",
    "teacher=none student=checkpoint student.path=model",
    "student=checkpoint student.path=model teacher=checkpoint teacher.path=model",
    "teacher=checkpoint teacher.path=google-bert/bert-base-uncased teacher.revision=main",
    "teacher=checkpoint teacher.path=model teacher.temperature=2",
    "teacher=very_weak teacher.budget=0.1 teacher.temperature=2 teacher.seed=4",
    "data@teacher.data=files teacher.data.path=text",
    "data@teacher.data=docs teacher.data.packages=[numpy]",
    "optim@teacher.optim=adamw teacher.optim.lr=2e-3",
    "teacher=several teacher.members=[small,untrained,label_smoothing,model] "
    "teacher.weights=[4,1,1,2] teacher.temperatures=[1,1,1,2] teacher.weighting=token",
    "teacher=several teacher.members=[small,weak] teacher.weighting=batch",
    "teacher=several teacher.members=[small,untrained] teacher.weighting=reinforced "
    "teacher.reward=both teacher.episode=5",
    "teacher=several teacher.members=[small,untrained] teacher.weighting=reinforced "
    "teacher.reward=probe teacher.probe=4",
    "order=difference order.share=0.25 order.num_patterns=2 alpha=off",
    "order=difference order.reference=model",
    "teacher=online teacher.rank=4 teacher.agreement=0.5 teacher.lr_scale=2",
    "data.tokenizer=model",
    "data=files data.path=text data.heldout_fraction=0.1 data.max_gb=1",
    "data=wikitext data.max_heldout_blocks=64",
    "objective=[logits,minilmv2] objective.minilmv2.weight=0.1",
    "objective=[reverse_kl,hidden] objective.hidden.distance=mse objective.reverse_kl.weight=2",
    "objective=[mse,masked_hidden] objective.masked_hidden.pool=row",
    "objective=[attention,hidden] objective.hidden.pairs=null objective.hidden.distance=mse",
    "objective.logits.temperature=2 objective.logits.temperature_end=1 "
    "objective.logits.tau_squared=true",
    "alpha=decay alpha.hard=0.5 alpha.soft_end=0",
    "task.mask_ratio=0.3 task.keep_ratio=0 task.random_ratio=0.2",
    "task.mask_ratio=0.3 eval.mask_ratio=0.3",
    "student.num_layers=3 student.dropout=0.1 teacher=very_weak remap=interpolate remap.head=false",
    "teacher=checkpoint teacher.path=model data.tokenizer=own task.tokenizer=bpe remap=stack "
    "remap.vocabulary=transfer objective=hidden",
    f"remap=ligo remap.steps=20 remap.lr=1e-3 {_NARROW_TEACHER}",
    "scale=paper teacher=very_weak alpha=strong remap=paper revise=label_revision select=correct",
    "scale=one_gpu train.epochs=2 optim=bert optim.falling=cosine",
    "scale.family=bert optim=adamw optim.lr=1e-3 train.precision=bf16 train.non_finite=skip",
    "train.max_steps=null train.epochs=0.5 train.max_minutes=10 train.batch_size=32",
    "eval.every=20 eval.num_blocks=64 eval.measures=[lm,probing] eval.at=[0.5,1.0]",
    "launch=torchrun launch.gpus=2 launch.device=cpu parallel=fsdp train.micro_batch_size=8",
    "task=clm signal=threshold signal.num_entries=20 alpha=step objective.logits.temperature=2",
    "task=classification task.path=labelled.jsonl task.regression=true student=checkpoint "
    "student.path=model teacher=none",
    "student=checkpoint student.path=model tuning=dsee tuning.rank=4 tuning.places=largest "
    "tuning.prune=0.2 tuning.prune_by=weight tuning.heads=1 tuning.remove_at=0.25",
]
"""Settings of all groups, away from their defaults and together."""


def every_choice() -> list[str]:
    """Build a command for every YAML of every group: a bare one but for this choice."""
    chosen = [f"{group}={choice}" for group, choices in groups().items() for choice in choices]
    return [f"{choice} {NEEDED.get(choice, '')}".strip() for choice in chosen]


@cache
def recorded() -> dict[str, str]:
    """Return the commands on record, and the identities of their runs.

    Left out are those of files, and of models that are not here.
    """
    found: dict[str, str] = {}
    for file in sorted((SWEEPS / "results").glob("*/results.csv")):
        if _opens_models(file.parent.name):
            continue
        with file.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                if " data.path=" not in row["words"]:
                    found[row["words"]] = row["identity"]
    return found


def _opens_models(study: str) -> bool:
    """Return whether a study's file names checkpoints, which are not here."""
    content = _content(study)
    roles = ("student", "teacher")
    named = any("path" in (content.get(role) or {}) for role in roles)
    return named or any(f"{role}.path=" in str(content["study"]) for role in roles)


@cache
def arms(study: str) -> dict[str, str]:
    """Return what each arm of a study sets, as its file has it."""
    found: dict[str, str] = _content(study)["study"]["arms"]
    return found


@cache
def _content(study: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((SWEEPS / f"{study}.yaml").read_text("utf-8"))
    return content


def other_arms() -> list[str]:
    """Build a command for every arm that no command on record is of."""
    on_record = {(words[1], words[2]) for words in map(shlex.split, recorded())}
    return [
        f"-cn {study} arm={arm} length=40 seed=1"
        for study in sweeps()
        for arm in arms(study)
        if (study, f"arm={arm}") not in on_record
    ]


def few_recorded() -> list[str]:
    """Choose from those on record: each arm once, at lengths and seeds that differ."""
    chosen: dict[str, str] = {}
    for study in sweeps():
        for number, (arm, sets) in enumerate(arms(study).items()):
            of_arm = [each for each in recorded() if each.startswith(f"-cn {study} arm={arm} ")]
            if of_arm:  # studies share arms
                chosen.setdefault(sets, of_arm[7 * number % len(of_arm)])
    return list(chosen.values())


def every() -> list[str]:
    """Return all of them, in the order of the file."""
    return [*MIXTURES, *every_choice(), *other_arms(), *recorded()]
