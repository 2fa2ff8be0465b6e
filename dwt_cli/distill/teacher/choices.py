"""The kinds of teachers by their names. Imports no torch."""

from dwt_cli.distill.teacher.imported import ImportedTeacher
from dwt_cli.distill.teacher.options import (
    CheckpointTeacher,
    MadeTeacher,
    NoTeacher,
    SelfTeacher,
    Teacher,
    VirtualTeacher,
)
from dwt_cli.distill.teacher.several import SeveralTeachers

TEACHERS: dict[str, type[Teacher]] = {
    "none": NoTeacher,
    "made": MadeTeacher,
    "checkpoint": CheckpointTeacher,
    "virtual": VirtualTeacher,
    "several": SeveralTeachers,
    "self": SelfTeacher,
    "imported": ImportedTeacher,
}
