"""Pseudo-log-likelihood against the sum written out, and what becomes of BLiMP's files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.blimp import log_likelihoods, read, scores
from dwt_cli.evaluate.measurement import EvaluatedModel, Measurement
from dwt_cli.evaluate.options import Blimp, Eval
from dwt_cli.models import wrapper
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.tasks import likelihoods
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.options import MaskedLM

CPU = torch.device("cpu")
MASK = 4
Rows = dict[str, list[dict[str, Any]]]


def sharp(model: PreTrainedModel) -> PreTrainedModel:
    """Weights so large that every token matters to every other."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


@pytest.fixture
def tested(tiny: Callable[..., Architecture], corpus: Corpus) -> EvaluatedModel:
    model = sharp(make_model(tiny(dropout=0.5), 0, "student"))
    return EvaluatedModel(model, corpus.tokenizer, MaskedLM(), "tiny", CPU, torch.float32)


def one_token_at_a_time(model: PreTrainedModel, sentence: tuple[int, ...]) -> float:
    total = 0.0
    for place in range(1, len(sentence) - 1):
        masked = list(sentence)
        masked[place] = MASK
        logits_V = model(torch.tensor([masked])).logits[0, place].double()
        total += float(logits_V.log_softmax(-1)[sentence[place]])
    return total


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("max_positions", [1, 200, 1 << 20])
@torch.no_grad()
def test_against_one_token_at_a_time(
    tiny: Callable[..., Architecture],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    max_positions: int,
) -> None:
    monkeypatch.setitem(likelihoods._POSITIONS, "cpu", max_positions)
    model = sharp(make_model(tiny(family), 0, "student")).eval()
    draw = torch.Generator().manual_seed(0)
    drawn = [
        (2, *torch.randint(5, 160, (length,), generator=draw).tolist(), 3)
        for length in (1, 7, 3, 7, 12, 7, 1)
    ]
    drawn.append(drawn[1])
    masking = Masking(MaskedLM(), 160, MASK, (0, 1, 2, 3, 4))
    found = log_likelihoods(wrapper.LanguageModel(model, torch.float32), drawn, masking, CPU)
    expected = [one_token_at_a_time(model, sentence) for sentence in drawn]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[1] == found[-1]
    assert len({round(value, 3) for value in expected}) == 7, "differences would show"


def write(folder: Path, files: Rows) -> Blimp:
    folder.mkdir()
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Blimp(str(folder))


def paradigm(uid: str, term: str, field: str, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "sentence_good": good,
            "sentence_bad": bad,
            "field": field,
            "linguistics_term": term,
            "UID": uid,
            "lexically_identical": False,
            "pairID": str(number),
        }
        for number, (good, bad) in enumerate(pairs)
    ]


A, B, SAME = "bark delin.", "mossa tum sive.", ("gum.", "gum.")


def test_accuracies_are_means_over_paradigms(
    tested: EvaluatedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = write(
        tmp_path / "blimp",
        {
            "one": paradigm("one", "x", "syntax", (A, B), (A, B), (B, A), (A, B)),
            "two": paradigm("two", "x", "syntax", (B, A), (B, A)),
            "three": paradigm("three", "y", "semantics", (A, B), SAME),
        },
    )
    found = {score.task: score for score in scores(tested, options, print)}
    values = {task: score.value for task, score in found.items()}
    a = values["blimp/one"]
    assert a in (0.25, 0.75), "A is likelier than B in both directions, or in none"
    b = float(a < 0.5)  # the same pairs the other way round
    c = (1 - b) / 2  # and a tie, which is no hit
    assert values == {
        "blimp": pytest.approx((a + b + c) / 3),
        "blimp/syntax": pytest.approx((a + b) / 2),
        "blimp/x": pytest.approx((a + b) / 2),
        "blimp/one": a,
        "blimp/two": b,
        "blimp/semantics": c,
        "blimp/y": c,
        "blimp/three": c,
    }
    assert found["blimp"].num_examples == 8
    assert found["blimp"].stderr == pytest.approx((0.1875 / 4 + 0 + c * (1 - c) / 2) ** 0.5 / 3)
    assert found["blimp"].remarks == ("3 of 67 paradigms", "1 ties count as wrong")
    assert found["blimp/one"].remarks == ()


def test_many_pairs_are_compiled_in_a_folder_of_the_users_own(
    tested: EvaluatedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwt_cli.evaluate.blimp._WORTH_COMPILING", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = write(tmp_path / "blimp", {"one": paradigm("one", "x", "syntax", (A, B))})
    places = []

    def compiled(model: wrapper.LanguageModel, dynamic: bool) -> None:
        places.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        (places[0] / "kernel.so").write_text("code")

    monkeypatch.setattr(wrapper.LanguageModel, "compile", compiled)
    scores(tested, options, print)
    (place,) = places
    assert place.name.startswith("dwt-") and not place.exists()
    assert [*tmp_path.glob("dwt/compiled/*/manifest.json")]


def test_only_so_many_pairs_of_each_file(tmp_path: Path) -> None:
    pairs = [(f"{A} {number}", B) for number in range(9)]
    files = {name: paradigm(name, "x", "syntax", *pairs) for name in ("one", "two")}
    options = write(tmp_path / "blimp", files)
    options.num_pairs = 4
    found = read(options, print)
    assert [pair.sentence_good for pair in found] == [good for good, _ in pairs[:4]] * 2


def test_what_a_model_cannot_read_is_cut_and_counted(
    tested: EvaluatedModel, tmp_path: Path
) -> None:
    long = "bark " * 600
    options = write(tmp_path / "blimp", {"one": paradigm("one", "x", "syntax", (A, long))})
    found = scores(tested, options, print)
    assert "1 of 2 sentences truncated" in found[0].remarks


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 has no sentence_good"),
        ('{"sentence_good": "A b.", "sentence_bad": " "}', "line 2 has no sentence_bad"),
        ('{"sentence_good": "A b.", "sentence_bad": "B a."}', "line 2 has no UID"),
        ("\udcff", "utf-8"),
    ],
)
def test_a_torn_file_is_told_of_and_left_out(tmp_path: Path, line: str, reason: str) -> None:
    good, torn = (paradigm(name, "x", "syntax", (A, B)) for name in ("good", "torn"))
    options = write(tmp_path / "blimp", {"good": good, "torn": torn})
    with (tmp_path / "blimp" / "torn.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    said: list[str] = []
    assert [pair.UID for pair in read(options, said.append)] == ["good"]
    (told,) = said
    assert str(tmp_path / "blimp" / "torn.jsonl") in told and reason in told


def test_no_pairs_at_all(tmp_path: Path) -> None:
    for name in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"eval.blimp.path=.*{name}: no minimal pairs"):
            read(Blimp(str(tmp_path / name)), print)


def test_what_is_said_of_a_measurement_is_in_short(tested: EvaluatedModel, tmp_path: Path) -> None:
    pairs = paradigm("one", "x", "syntax", (A, B))
    options, said = write(tmp_path / "blimp", {"one": pairs}), list[str]()
    cache = Cache(str(tmp_path / "cache"), print)
    none: Any = None
    measurement = Measurement(tested, Eval(), none, none, cache, said.append, lambda *_: None)
    found = measurement.kept("b", (), lambda _: (scores(tested, options, print), {}))
    assert len(found) == 4
    (line,) = said
    assert "blimp accuracy" in line and "blimp/syntax accuracy" in line
    assert "blimp/x" not in line and "blimp/one" not in line
