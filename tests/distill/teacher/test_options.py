"""The options of teachers: each kind says what identifies it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dwt_cli.base.identity import fingerprint
from dwt_cli.distill.teacher.choices import TEACHERS
from dwt_cli.distill.teacher.options import CheckpointTeacher, NoTeacher, Teacher, VirtualTeacher
from dwt_cli.distill.teacher.several import SeveralTeachers
from dwt_cli.distill.teacher.signal import TeacherSignal, VirtualSignal
from dwt_cli.models.wrapper import LanguageModel


def test_a_kind_that_says_not_what_identifies_it_has_no_other_ones_identity() -> None:
    @dataclass
    class Recorded(VirtualTeacher):
        """Inherits what identifies a virtual teacher, and says so."""

    @dataclass
    class Unidentified(Teacher):
        """Opens a signal, and has no identity."""

        def signal(self, model: LanguageModel | None, vocab_size: int) -> TeacherSignal:
            return VirtualSignal(0.5, vocab_size)

    assert Recorded(confidence=0.9).identity() == fingerprint("virtual")
    with pytest.raises(NotImplementedError):
        Unidentified().identity()


def test_each_teacher_has_the_setting_of_its_own() -> None:
    virtual, opened = VirtualTeacher(confidence=0.9), CheckpointTeacher(path="folder")
    several = SeveralTeachers(members=["virtual", "folder"], teachers=[virtual, opened])
    assert list(NoTeacher().each()) == []
    assert list(virtual.each()) == [("teacher", virtual)]
    assert list(several.each()) == [
        ("teacher.members.virtual", virtual),
        ("teacher.members.folder", opened),
    ]


def problems(teacher: Teacher) -> Iterator[str]:
    yield from teacher.problems_over("teacher", 100)
    if isinstance(teacher, SeveralTeachers):
        yield from teacher.problems("teacher")


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        (VirtualTeacher(confidence=0.01), "teacher.confidence=0.01: it is above 0.01"),
        (SeveralTeachers(members=["a"], teachers=[CheckpointTeacher()]), "two at least"),
        (SeveralTeachers(members=["a", "b"], teachers=[NoTeacher()] * 2), "a is not one teacher"),
        (
            SeveralTeachers(members=["a"] * 2, teachers=[CheckpointTeacher()] * 2, weights=[1.0]),
            "teacher.weights=[1.0] and teacher.members=['a', 'a']: give 2",
        ),
    ],
)
def test_settings_that_do_not_work(teacher: Teacher, line: str) -> None:
    assert line in next(problems(teacher))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_single_model_alone_can_be_compared_layer_by_layer(name: str) -> None:
    assert TEACHERS[name].is_model == (name in ("made", "checkpoint"))
