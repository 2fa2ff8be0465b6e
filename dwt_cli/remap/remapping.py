"""Copy a teacher into a student by a layer rule, and account for every tensor."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli.config import Family
from dwt_cli.errors import UserError
from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.remap.rules import RULES


@dataclass
class Account:
    """Where each tensor of the student comes from.

    copied: student tensor -> teacher tensor. reset: student tensors that keep their fresh
    initialisation, with the reason. layers: student layer -> teacher layer.
    """

    copied: dict[str, str] = field(default_factory=dict)
    reset: dict[str, str] = field(default_factory=dict)
    layers: dict[int, int] = field(default_factory=dict)


@torch.no_grad()
def remap(student: PreTrainedModel, teacher: PreTrainedModel, rule: str) -> Account:
    """Write the teacher's weights into the student, in place.

    Embeddings and head are copied as they are, layers as the rule says. Raises `UserError` when
    a tensor fits neither: another family or another width.
    """
    check_fit(student.config, teacher.config, rule)
    account = Account()
    source, target = teacher.state_dict(), student.state_dict()
    num_student, num_teacher = (model.config.num_hidden_layers for model in (student, teacher))
    for layer in range(num_student):
        chosen = RULES[rule](layer, num_student, num_teacher)
        if chosen is not None:
            account.layers[layer] = chosen
    for name, tensor in target.items():
        _place(name, tensor, source, student, account)
    assert account.copied.keys() | account.reset.keys() == target.keys()
    _check_nothing_is_lost(source, teacher, account, rule)
    return account


def check_fit(ours: PreTrainedConfig, theirs: PreTrainedConfig, rule: str) -> None:
    """Raise `UserError` unless the rule can copy the teacher's layers into the student's."""
    if rule not in RULES:
        raise UserError(
            f"remap.rule={rule} is not known: use {', '.join(sorted([*RULES, 'random']))}"
        )
    if ours.model_type != theirs.model_type:
        makeable = theirs.model_type in Family.__members__
        remedy = f"student.family={theirs.model_type} or " if makeable else ""
        raise UserError(
            f"remap.rule={rule}: the student is a {ours.model_type}, the teacher a "
            f"{theirs.model_type}; choose {remedy}remap=random"
        )
    for setting, key in (
        ("width", "hidden_size"),
        ("mlp_width", "intermediate_size"),
        ("num_heads", "num_attention_heads"),
    ):
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f"remap.rule={rule}: student.{setting}={getattr(ours, key)} and the "
                f"teacher's {getattr(theirs, key)} differ, and this rule changes depth alone; "
                f"set student.{setting}={getattr(theirs, key)}, or remap=random"
            )
    kinds = {
        kind for config in (ours, theirs) for kind in getattr(config, "layer_types", None) or []
    }
    if len(kinds) > 1:
        raise UserError(
            f"remap.rule={rule}: layers of kinds {', '.join(sorted(kinds))} are not "
            "interchangeable; use a teacher whose layers are alike, or remap=random"
        )


def _check_nothing_is_lost(
    source: dict[str, Tensor], teacher: PreTrainedModel, account: Account, rule: str
) -> None:
    anatomy = anatomy_of(teacher)
    for name in sorted(source.keys() - set(account.copied.values())):
        number, _, suffix = name.removeprefix(f"{anatomy.layers}.").partition(".")
        in_layer = name.startswith(f"{anatomy.layers}.")
        if in_layer and (int(number) not in account.layers.values() or suffix in anatomy.optional):
            continue
        raise UserError(
            f"remap.rule={rule}: the student has no place for the teacher's {name}; choose "
            "remap=random"
        )


def _place(
    name: str, tensor: Tensor, source: dict[str, Tensor], student: PreTrainedModel, account: Account
) -> None:
    anatomy = anatomy_of(student)
    origin, suffix = name, None
    if name.startswith(f"{anatomy.layers}."):
        number, suffix = name.removeprefix(f"{anatomy.layers}.").split(".", 1)
        if int(number) not in account.layers:
            account.reset[name] = "the rule leaves this layer as it was made"
            return
        origin = f"{anatomy.layers}.{account.layers[int(number)]}.{suffix}"
    if origin not in source:
        if suffix in anatomy.optional:
            account.reset[name] = f"the teacher's layer has no {suffix}"
            return
        raise UserError(
            f"remap: the teacher has no tensor {origin} for the student's {name}; "
            "choose remap=random"
        )
    if source[origin].shape != tensor.shape:
        raise UserError(
            f"remap: the student's {name} is {tuple(tensor.shape)}, the teacher's "
            f"{origin} is {tuple(source[origin].shape)}; choose remap=random"
        )
    tensor.copy_(source[origin])
    account.copied[name] = origin
