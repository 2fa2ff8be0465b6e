"""The objectives that look inside both models: made for two sizes, or refused."""

from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig

from dwt_cli.base.errors import UserError
from dwt_cli.distill.objective.hidden import HiddenStates
from dwt_cli.distill.objective.options import Hidden, MiniLM, MiniLMv2, Objective
from dwt_cli.distill.objective.relations import MiniLMRelations, MiniLMv2Relations
from dwt_cli.models.features import Features, check_layers


class Inside(Protocol):
    """Compares what was seen in both models; a mean over positions, a scalar with a gradient.

    student, teacher: what has to be seen in each.
    """

    student: Features
    teacher: Features

    def __call__(self, student: Features, teacher: Features) -> Tensor: ...


def inside_objectives(
    objectives: Mapping[str, Objective], ours: PreTrainedConfig, theirs: PreTrainedConfig
) -> nn.ModuleDict:
    """A module (`Inside`) for each objective that needs features, by its name.

    Raises `UserError` for sizes that cannot be compared.
    """
    made = {}
    for name, options in objectives.items():
        module = _made(f"objective.{name}", options, ours, theirs)
        if module is not None:
            inside = cast(Inside, module)
            check_layers(ours, inside.student, f"objective.{name}, student")
            check_layers(theirs, inside.teacher, f"objective.{name}, teacher")
            made[name] = module
    return nn.ModuleDict(made)


def _made(
    setting: str, options: Objective, ours: PreTrainedConfig, theirs: PreTrainedConfig
) -> nn.Module | None:
    if isinstance(options, MiniLMv2):
        num_heads = options.num_relation_heads or ours.num_attention_heads
        for role, config in (("student", ours), ("teacher", theirs)):
            if config.hidden_size % num_heads:
                raise UserError(
                    f"{setting}.num_relation_heads={num_heads} does not divide the {role}'s width "
                    f"of {config.hidden_size}: choose a divisor of both widths"
                )
        return MiniLMv2Relations(options, num_heads)
    if isinstance(options, MiniLM):
        if ours.num_attention_heads != theirs.num_attention_heads:
            raise UserError(
                f"{setting}: the student has {ours.num_attention_heads} heads, the teacher "
                f"{theirs.num_attention_heads}, and MiniLM compares head by head; choose "
                "objective=minilmv2, or equal head counts"
            )
        return MiniLMRelations(options)
    if isinstance(options, Hidden):
        return HiddenStates(options, ours.hidden_size, theirs.hidden_size)
    return None


def wishes(objectives: nn.ModuleDict) -> tuple[Features, Features]:
    """What all of them together need to see in the student, and in the teacher."""
    student, teacher = Features(), Features()
    for module in objectives.values():
        inside = cast(Inside, module)
        student = student.joined(inside.student)
        teacher = teacher.joined(inside.teacher)
    return student, teacher
