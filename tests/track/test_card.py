from typing import Any

import pytest
import yaml

from dwt_cli.tasks.options import MaskedLM
from dwt_cli.track.card import model_card

SUMMARY: dict[str, Any] = {
    "name": "small-large-decay",
    "identity": "0123456789abcdef",
    "seed": 3,
    "student": {
        "parameters": 1_234_567,
        "tokens": 987_654,
        "steps": 4321,
        "heldout": {"loss": 3.14159, "perplexity": 23.1415, "accuracy": 0.4242},
    },
    "teacher": {"parameters": 7_654_321, "heldout": {"loss": 2.71828}},
}
CONFIG = {"student": {"num_layers": 6}, "seed": 3}


@pytest.mark.parametrize("alone", [True, False])
def test_the_card_says_what_the_summary_knows(alone: bool) -> None:
    name = "none" if alone else "small"
    summary = SUMMARY | {"choices": {"teacher": name, "alpha": "decay"}}
    summary |= {"teacher": None} if alone else {}
    card = model_card(summary, CONFIG, MaskedLM())
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "fill-mask"
    assert "masked-lm" in yaml.safe_load(head)["tags"]
    assert "A masked language model of 1.23 M" in text
    assert "cross-entropy per masked token" in text
    assert yaml.safe_load(head)["library_name"] == "transformers"
    for figure in (
        "1.23 M",
        "3.1416 nats",
        "23.14",
        "42.42%",
        "987,654",
        "4,321",
        "0123456789abcdef",
        "seed 3",
        f"| teacher | {name} |",
        "2305.18239",
    ):
        assert figure in text, figure
    with_teacher = "a teacher of 7.65 M parameters (held-out loss 2.718)"
    assert (with_teacher in " ".join(text.split())) == (not alone)
    assert ("trained alone" in text) == alone
    settings = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings) == CONFIG
    assert "under" not in text


def test_the_licence_of_a_known_text_is_said() -> None:
    name = "HuggingFaceFW/fineweb-edu"
    config = CONFIG | {"data": {"parts": [{"dataset": name}, {"dataset": "/a/folder"}]}}
    card = model_card(SUMMARY | {"choices": {"teacher": "small"}}, config, MaskedLM())
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["datasets"] == [name]
    assert f"[{name}](https://huggingface.co/datasets/{name}), under ODC-By 1.0." in text
