from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import ANATOMIES, anatomy_of, layers_of


@pytest.mark.parametrize("family", ANATOMIES)
def test_the_parts_are_where_the_anatomy_says(
    of_family: Callable[[str], PreTrainedModel], family: str
) -> None:
    model, anatomy = of_family(family), ANATOMIES[family]
    assert anatomy_of(model) is anatomy
    layers = layers_of(model)
    assert len(layers) == 3
    output = model.get_submodule(anatomy.output)
    assert isinstance(output, nn.Linear)
    assert (output.in_features, output.out_features) == (16, 160)
    assert output is model.get_output_embeddings()
    hidden_ND = torch.randn(5, 16)
    assert output(anatomy.transform(model, hidden_ND)).shape == (5, 160)
    of_backbone = model.base_model(torch.ones(1, 8, dtype=torch.long))
    assert of_backbone.last_hidden_state.shape == (1, 8, 16)
    for suffix in anatomy.optional:
        have = [suffix in layer.state_dict() for layer in layers]
        assert any(have)
        assert not all(have)


@pytest.mark.parametrize("family", [name for name in ANATOMIES if ANATOMIES[name].axes])
def test_the_axes_are_those_of_the_tensors(
    of_family: Callable[[str], PreTrainedModel], family: str
) -> None:
    model, anatomy = of_family(family), ANATOMIES[family]
    sizes = {"D": 16, "H": 16, "K": 8, "M": 24}
    found = set()
    for name, tensor in model.state_dict().items():
        _, inside = anatomy.place_of(name)
        found.add(inside.rpartition(".")[0])
        for letter, size in zip(anatomy.axes_of(name), tensor.shape, strict=True):
            times = int(letter[:-1] or 1)
            assert letter == "." or size == times * sizes[letter[-1].upper()], name
    assert found == anatomy.axes.keys()
    assert all(name in model.state_dict() for name in anatomy.optional.values())
    assert any(name.startswith(anatomy.embeddings) for name in model.state_dict())
