"""Checkpoints of each family and format open; what is no teacher is refused in one line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ElectraConfig, GPT2Config, PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.checkpoint import open_config, open_folder, open_model
from dwt_cli.models.options import CheckpointStudent, Head
from tests.models.conftest import ENCODERS

OfFamily = Callable[[str], PreTrainedModel]


def save_in_the_old_format(model: PreTrainedModel, folder: Path) -> None:
    """As checkpoints were before safetensors, with the first BERTs' names of the norms."""
    model.config.save_pretrained(folder)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(old, folder / "pytorch_model.bin")


def assert_same(model: PreTrainedModel, other: PreTrainedModel) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("family", ENCODERS)
def test_safetensors(of_family: OfFamily, tmp_path: Path, family: str) -> None:
    model = of_family(family)
    model.save_pretrained(tmp_path)
    teacher = CheckpointTeacher(path=str(tmp_path))
    assert open_config("teacher.path", teacher, Head.masked).vocab_size == 160
    assert_same(_open(teacher), model)
    assert_same(open_folder(tmp_path, Head.masked), model)


def test_a_bit_that_turned_over_is_named(of_family: OfFamily, tmp_path: Path) -> None:
    of_family("bert").save_pretrained(tmp_path)
    atomic.write_sums(tmp_path)
    _open(CheckpointTeacher(path=str(tmp_path)))
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    line = (
        r"cannot be opened: model\.safetensors is not as it was written, by SHA256SUMS beside it \("
    )
    with pytest.raises(UserError, match=line):
        _open(CheckpointTeacher(path=str(tmp_path)))
    with pytest.raises(UserError, match=line):
        open_folder(tmp_path, Head.masked)
    (tmp_path / atomic.SUMS).write_text("nothing\n")
    with pytest.raises(UserError, match="SHA256SUMS is not as it was written; copy"):
        _open(CheckpointTeacher(path=str(tmp_path)))


@pytest.mark.parametrize("family", ENCODERS)
def test_torch_s_old_format(of_family: OfFamily, tmp_path: Path, family: str) -> None:
    model = of_family(family)
    save_in_the_old_format(model, tmp_path)
    assert_same(_open(CheckpointTeacher(path=str(tmp_path))), model)


def test_half_precision_opens_as_fp32(of_family: OfFamily, tmp_path: Path) -> None:
    of_family("bert").to(torch.bfloat16).save_pretrained(tmp_path)
    model = _open(CheckpointTeacher(path=str(tmp_path)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code_does_not(of_family: OfFamily, tmp_path: Path) -> None:
    model, marker = of_family("bert"), tmp_path / "it ran"
    model.config.save_pretrained(tmp_path)
    torch.save({**model.state_dict(), "evil": Evil(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be opened") as caught:
        _open(CheckpointTeacher(path=str(tmp_path)))
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert marker.exists(), "the trap works"


def _without_head(model: PreTrainedModel, folder: Path) -> None:
    model.bert.save_pretrained(folder)


def _of_another_task(model: PreTrainedModel, folder: Path) -> None:
    GPT2Config().save_pretrained(folder)


def _no_folder(model: PreTrainedModel, folder: Path) -> None:
    folder.rmdir()


def _empty(model: PreTrainedModel, folder: Path) -> None:
    pass


def _broken_config(model: PreTrainedModel, folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert",')


def _no_weights(model: PreTrainedModel, folder: Path) -> None:
    model.config.save_pretrained(folder)


def _cut_short(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _of_another_size(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    model.config.hidden_size = 32
    model.config.save_pretrained(folder)


def _open(teacher: CheckpointTeacher) -> PreTrainedModel:
    open_config("teacher.path", teacher, Head.masked, any_family=True)
    model, lacking = open_model("teacher.path", teacher, Head.masked)
    assert lacking == []
    return model


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_without_head, "lacks the weights cls"),
        (_of_another_task, "is a gpt2: it is no masked language model"),
        (_no_folder, "cannot be opened"),
        (_empty, "cannot be opened"),
        (_broken_config, "cannot be opened"),
        (_no_weights, "cannot be opened"),
        (_cut_short, "cannot be opened"),
        (_of_another_size, "cannot be opened"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(
    of_family: OfFamily,
    tmp_path: Path,
    expected: str,
    spoil: Callable[[PreTrainedModel, Path], None],
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    spoil(of_family("bert"), folder)
    teacher = CheckpointTeacher(path=str(folder))
    with pytest.raises(UserError, match=expected) as caught:
        _open(teacher)
    assert "\n" not in str(caught.value)
    assert f"teacher.path={folder}" in str(caught.value)


def test_another_family_is_opened_for_its_logits_alone(tmp_path: Path) -> None:
    ElectraConfig().save_pretrained(tmp_path)
    known = CheckpointStudent(path=str(tmp_path))
    assert open_config("teacher.path", known, Head.masked, any_family=True).model_type == "electra"
    with pytest.raises(UserError, match=f"student.path={tmp_path} is a electra: .* trained on"):
        open_config("student.path", known, Head.masked)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_an_encoder_without_a_head_is_trained_on_with_a_fresh_one_and_teaches_without(
    of_family: OfFamily, tmp_path: Path, family: str
) -> None:
    encoder = of_family(family).base_model
    encoder.save_pretrained(tmp_path)
    student = CheckpointStudent(path=str(tmp_path))
    started = [student.start(seed, Head.masked) for seed in (1, 1, 2)]
    one, same, other = (model.state_dict() for model, _ in started)
    _, fresh = started[0]
    assert fresh
    assert all(torch.equal(one[name], same[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing and differing <= set(fresh)
    teacher = CheckpointTeacher(path=str(tmp_path))
    even, lacking = teacher.start("teacher", Head.masked)
    assert even is not None and lacking == fresh
    assert not even(torch.arange(9)[None]).logits.any()
    for name, tensor in encoder.state_dict().items():
        if (whole := f"{even.base_model_prefix}.{name}") in one:
            assert torch.equal(one[whole], tensor)
            assert torch.equal(even.state_dict()[whole], tensor)
    of_family(family).save_pretrained(tmp_path)
    assert student.start(1, Head.masked)[1] == []
