"""The models of a run as shapes: on the meta device, or of fake tensors; no memory, no numbers."""

import torch
from transformers import PreTrainedModel

from dwt_cli.config.run import Run, each_teacher
from dwt_cli.distill.objective.features import inside_objectives, wishes
from dwt_cli.distill.teacher.options import CheckpointTeacher, MadeTeacher
from dwt_cli.models.checkpoint import open_config, outline_of
from dwt_cli.models.features import Features
from dwt_cli.models.making import outline
from dwt_cli.models.options import CheckpointStudent, MadeStudent


def student_outline(run: Run, device: torch.device | str = "meta") -> PreTrainedModel:
    """The student on the meta device (or, of fake tensors, on any)."""
    if isinstance(run.student, CheckpointStudent):
        return outline_of(open_config("student.path", run.student), device)
    assert isinstance(run.student, MadeStudent)
    return outline(run.student, device)


def teacher_outlines(run: Run) -> dict[str, PreTrainedModel]:
    """The models that teach, by their settings' names; a virtual teacher is none."""
    models = {}
    for name, teacher in each_teacher(run):
        if isinstance(teacher, MadeTeacher):
            models[name] = outline(teacher)
        elif isinstance(teacher, CheckpointTeacher):
            setting = "teacher.path" if name == "teacher" else "teacher.members"
            models[name] = outline_of(open_config(setting, teacher, any_family=True))
    return models


def shown(run: Run) -> tuple[Features, Features]:
    """What the run's objectives look at inside the student, and inside its teacher."""
    teachers = teacher_outlines(run)
    if list(teachers) != ["teacher"]:  # nobody looks inside several
        return Features(), Features()
    student = student_outline(run).config
    return wishes(inside_objectives(run.objective, student, teachers["teacher"].config))
