from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForPreTraining, PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.models.checkpoint import open_classifier
from dwt_cli.models.making import make_classifier
from dwt_cli.models.options import Checkpoint, Classes
from dwt_cli.models.wrapper import Classifier
from tests.models.conftest import ENCODERS

OfFamily = Callable[[str], PreTrainedModel]


@pytest.mark.parametrize("family", ENCODERS)
def test_it_is_what_the_library_opens_from_the_same_checkpoint(
    of_family: OfFamily, family: str, tmp_path: str
) -> None:
    model = of_family(family)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    ours = make_classifier(model, 3, seed=0)
    assert type(ours) is type(theirs)
    shared = model.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        if name in shared:
            torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=0)
    again, other = make_classifier(model, 3, seed=0), make_classifier(model, 3, seed=1)
    new = [n for n, _ in ours.named_parameters() if n not in shared and n.endswith("weight")]
    assert new
    for name in new:
        assert torch.equal(again.state_dict()[name], ours.state_dict()[name])
        assert not torch.equal(other.state_dict()[name], ours.state_dict()[name])


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_padding_changes_nothing(of_family: OfFamily, family: str) -> None:
    wrapped = Classifier(make_classifier(of_family(family), 2, seed=0), torch.float32).eval()
    ids_BL = torch.randint(5, 160, (2, 20), generator=torch.Generator().manual_seed(0))
    alone = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
    if getattr(wrapped.model.config, "type_vocab_size", 0) > 1:
        alone["token_type_ids"] = torch.zeros_like(ids_BL)
    fills = {"input_ids": wrapped.model.config.pad_token_id}
    padded = {
        name: torch.nn.functional.pad(tensor_BL, (0, 6), value=fills.get(name, 0))
        for name, tensor_BL in alone.items()
    }
    alone_NC, found_NC = (wrapped(named).logits_NV for named in (alone, padded))
    torch.testing.assert_close(found_NC, alone_NC, rtol=1e-4, atol=1e-5)


def test_the_model_that_is_copied_stays_as_it_was(of_family: OfFamily) -> None:
    model = of_family("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = make_classifier(model, 2, seed=0)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.num_labels == 2 and model.config is not copy.config


def test_a_trained_pooler_is_kept_and_a_lost_layer_is_refused(
    of_family: OfFamily, tmp_path: Path
) -> None:
    model = BertForPreTraining(of_family("bert").config)
    model.save_pretrained(tmp_path)
    classes = Classes(("a", "b", "c"))
    ours, fresh = open_classifier("student.path", Checkpoint(str(tmp_path)), classes, seed=0)
    again, other = (
        open_classifier("student.path", Checkpoint(str(tmp_path)), classes, seed)[0]
        for seed in (0, 1)
    )
    assert fresh == ["classifier.bias", "classifier.weight"]
    assert torch.equal(ours.bert.pooler.dense.weight, model.bert.pooler.dense.weight)
    assert torch.equal(ours.classifier.weight, again.classifier.weight)
    assert not torch.equal(ours.classifier.weight, other.classifier.weight)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layer.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks the weights bert\.encoder\.layer\.1\..*save it whole"
    ):
        open_classifier("student.path", Checkpoint(str(tmp_path)), classes, seed=0)
