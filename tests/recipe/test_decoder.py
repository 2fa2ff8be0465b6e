"""``task=clm`` from its command to what it leaves behind."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.base.options import Device, Precision
from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.data.pack import Blocks
from dwt_cli.models.making import make_classifier
from dwt_cli.models.wrapper import Classifier
from dwt_cli.recipe.evaluate import opened
from dwt_cli.tasks.options import CausalLM
from dwt_cli.tasks.texts import Texts
from tests.miniature import options, write_text
from tests.record import Done, carry_out

Composed = Callable[..., Run]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    write_text(folder / "text", num_documents=30)
    return folder


def train(composed: Composed, place: Path, *words: str) -> Done:
    run = composed(*options(place), "task=clm", "scale.vocab_size=300", *words)
    return carry_out(run)


@pytest.mark.slow
def test_a_student_of_a_weak_teacher_can_be_asked_to_write(composed: Composed, place: Path) -> None:
    folder, printed = train(composed, place)
    summary = json.loads((folder / "summary.json").read_text())
    heldout = summary["student"]["heldout"]
    assert 0 < heldout["bits_per_byte"] < heldout["loss"]
    assert summary["student"]["tokens"] == 6 * 8 * 16, "inputs"
    assert "bits per byte" in printed
    assert f"sample: {' '.join(summary['samples'][0].split())}" in printed
    card = (folder / "model" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "cross-entropy per token" in card
    assert "max_new_tokens" in card
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.model_type == "qwen3"
    ids_BL = tokenizer("bark belin", return_tensors="pt").input_ids
    written = model.generate(ids_BL, max_new_tokens=3, do_sample=False)
    assert torch.equal(written[:, : ids_BL.shape[1]], ids_BL)
    # the loss on record is that of the model which was saved, by a plain call
    (text,) = (place / "cache").glob("**/heldout")  # no other test has run before
    blocks = Blocks(text)
    nats = count = 0.0
    with torch.no_grad():
        for ids in (blocks[np.arange(len(blocks))], np.array(blocks.rest)):
            ids_BL = torch.from_numpy(ids)
            num_targets = len(ids) * (ids.shape[1] - 1)
            nats += model(ids_BL, labels=ids_BL).loss.item() * num_targets
            count += num_targets
    assert heldout["loss"] == pytest.approx(nats / count, rel=1e-5)


REFUSED = [
    ("a masked family", ["scale.family=bert"], r"student.family=bert.*qwen3, llama, gpt2"),
    ("a scale of masked models", ["scale=paper"], r"student.family=bert.*set scale.family"),
    ("groups that do not divide", ["student.num_kv_heads=4"], r"num_kv_heads=4 does not divide"),
    (
        "groups where there are none",
        ["scale.family=gpt2", "student.num_kv_heads=1"],
        r"a gpt2 has keys and values for each head",
    ),
]


@pytest.mark.parametrize(("words", "line"), [each[1:] for each in REFUSED])
def test_what_does_not_fit_is_one_line(
    composed: Composed, place: Path, words: list[str], line: str
) -> None:
    run = composed(*options(place), "task=clm", "scale.vocab_size=300", *words)
    with pytest.raises(UserError, match=line) as caught:
        check.check(run)
    assert "\n" not in str(caught.value)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
NUM_TOKENS = 300
BLOOM = {"hidden_size": 16, "n_layer": 1, "n_head": 2}


@pytest.fixture(scope="module")
def models(place: Path) -> Path:
    """Checkpoints as the library makes them, with tokenizers of their own."""
    folder = place / "models"
    texts = [path.read_text() for path in sorted((place / "text").iterdir())]
    tokenizer = train_tokenizer(texts, NUM_TOKENS, 32)
    assert len(tokenizer) == NUM_TOKENS

    def save(name: str, made: PreTrainedModel, own: PreTrainedTokenizerBase = tokenizer) -> None:
        made.save_pretrained(folder / name)
        own.save_pretrained(folder / name)

    def llama(vocab_size: int = NUM_TOKENS, **changes: int) -> LlamaForCausalLM:
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SIZES | changes))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save("llama", llama())
        save("padded", llama(vocab_size=320))
        save("olmo2", Olmo2ForCausalLM(Olmo2Config(vocab_size=NUM_TOKENS, **SIZES)))
        gemma = Gemma2Config(vocab_size=NUM_TOKENS, **SIZES, num_key_value_heads=1, head_dim=12)
        save("gemma2", Gemma2ForCausalLM(gemma))
        gemma.use_bidirectional_attention = True
        save("reads all", Gemma2ForCausalLM(gemma))
        save("arcee", ArceeForCausalLM(ArceeConfig(vocab_size=NUM_TOKENS, **SIZES)))
        save("bloom", BloomForCausalLM(BloomConfig(vocab_size=NUM_TOKENS, **BLOOM)))
        save("short", llama(max_position_embeddings=8))
        save("bert", BertForMaskedLM(BertConfig(vocab_size=NUM_TOKENS, **SIZES)))
        reversed_texts = [text[::-1] for text in texts]
        save("others", llama(), train_tokenizer(reversed_texts, NUM_TOKENS, 32))
        tokenizer.pad_token = None
        save("padless", llama())
        tokenizer.eos_token = None
        save("endless", llama())
    return folder


def teacher(models: Path, name: str) -> list[str]:
    return ["teacher=checkpoint", f"teacher.path={models}/{name}", "scale.max_steps=2"]


def test_a_decoder_of_any_family_teaches_by_its_logits(
    composed: Composed, place: Path, models: Path
) -> None:
    """The parts of this one are not known; it is asked beforehand to keep documents apart."""
    words = [*teacher(models, "arcee"), "task.separate_documents=true"]
    folder, _ = train(composed, place, *words)
    heldout = json.loads((folder / "summary.json").read_text())["teacher"]["heldout"]
    assert heldout["loss"] == pytest.approx(math.log(NUM_TOKENS), abs=0.2)
    saved = AutoTokenizer.from_pretrained(folder / "model")
    theirs = AutoTokenizer.from_pretrained(models / "arcee")
    assert saved.get_vocab() == theirs.get_vocab(), "text is read in the teacher's tokens"


GROWN = ["remap=zero_init", "scale.num_layers=2", "scale.mlp_width=24", "student.num_kv_heads=1"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_a_model_that_exists_grows_and_is_trained_on(
    composed: Composed, place: Path, models: Path, family: str
) -> None:
    grown = GROWN[: None if family == "gemma2" else -1]
    words = [*teacher(models, family), *grown, f"student.family={family}"]
    folder, _ = train(composed, place, *words)
    losses = json.loads((folder / "remap.json").read_text())["losses"]
    assert losses["remapped"] == pytest.approx(losses["teacher"], abs=1e-5)
    assert losses["random"] != pytest.approx(losses["teacher"], abs=1e-3)
    further = ["student=checkpoint", f"student.path={folder}", "scale.max_steps=2"]
    again, _ = train(composed, place, *further, f"data.tokenizer={folder}/model", "teacher=none")
    saved = AutoModelForCausalLM.from_pretrained(again / "model")
    assert (saved.config.model_type, saved.config.num_hidden_layers) == (family, 2)


def test_a_teacher_of_shorter_blocks_reads_windows(
    composed: Composed, place: Path, models: Path
) -> None:
    words = [*teacher(models, "short"), "alpha=normal", "objective=[logits,hidden]"]
    folder, printed = train(composed, place, *words)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher"]["windows"] == {"length": 8, "number": 3}
    assert "the teacher reads a block in 3 windows of 8 positions" in printed
    assert summary["teacher"]["heldout"]["loss"] == pytest.approx(math.log(NUM_TOKENS), abs=0.2)


@pytest.mark.slow
def test_windows_are_the_same_in_parts_and_when_they_are_cached(
    composed: Composed, place: Path, models: Path
) -> None:
    words = [*teacher(models, "short"), "alpha=normal", "objective=logits"]
    records = []
    once = ["signal=threshold", "signal.num_entries=299", "signal.num_centroids=0"]
    for more in ([], ["train.micro_batch_size=2"], once):
        folder, _ = train(composed, place, *words, *more)
        records.append(json.loads((folder / "summary.json").read_text()))
    whole, in_parts, cached = records
    assert whole["student"]["heldout"] == pytest.approx(in_parts["student"]["heldout"], rel=1e-5)
    assert cached["student"]["heldout"]["loss"] == pytest.approx(
        whole["student"]["heldout"]["loss"], abs=1e-3
    )
    assert cached["teacher"]["heldout"] == whole["teacher"]["heldout"]
    online, asked = (each["student"]["teacher_forward_flops"] for each in (whole, cached))
    assert 0 < asked <= online


def test_rows_that_are_no_tokens_have_no_share_in_what_is_taught(
    composed: Composed, place: Path, models: Path
) -> None:
    words = teacher(models, "padded")
    folder, printed = train(
        composed, place, *words, "student=checkpoint", f"student.path={models}/llama"
    )
    assert re.search(
        r"teacher: \d+\.\d\d% of its probability is on rows beyond .* 300 tokens", printed
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher"]["heldout"]["loss"] == pytest.approx(math.log(NUM_TOKENS), abs=0.2)


REFUSED_TEACHERS = [
    (
        "a masked model",
        "bert",
        [],
        r"bert: it is no causal language model.*gpt2, llama.*qwen3.*, or task=mlm",
    ),
    ("it sees what comes", "reads all", [], r"gemma2: it is no causal language model.* of them$"),
    (
        "capped attention",
        "gemma2",
        ["objective=minilm", "student.family=gemma2"],
        r"objective.minilm: a gemma2 caps what attention sees at 50.0.*objective=minilmv2",
    ),
    (
        "no positions to begin anew",
        "bloom",
        ["task.separate_documents=true"],
        r"a bloom, does not answer.*\((TypeError|task.separate_documents=true: it sees)",
    ),
    ("a causal model", "llama", ["task=mlm"], r"llama: it is no masked.*bert.*, or task=clm"),
    (
        "relations between windows",
        "short",
        ["objective=minilmv2", "student.family=llama"],
        r"objective=minilmv2 with teacher: it reads windows of 8 positions.*objective=logits",
    ),
    (
        "likelihoods of its own tokens",
        "short",
        ["objective=alm"],
        r"objective=alm with teacher: it reads windows of 8 positions.*objective=logits",
    ),
    ("no end", "endless", [], r"endless has no eos_token, which the task needs"),
    (
        "another vocabulary",
        "others",
        ["data.tokenizer={models}/llama"],
        r"others.*\d+ of 300 entries.*\(id \d+ is '.*', and '.*' among its 300\)",
    ),
]


@pytest.mark.parametrize(("name", "more", "line"), [each[1:] for each in REFUSED_TEACHERS])
def test_a_teacher_that_does_not_fit_is_one_line(
    composed: Composed, place: Path, models: Path, name: str, more: list[str], line: str
) -> None:
    words = [*teacher(models, name), *(each.format(models=models) for each in more)]
    before = set(place.glob("runs/*"))
    with pytest.raises(UserError, match=line) as caught:
        train(composed, place, *words)
    assert "\n" not in str(caught.value)
    assert set(place.glob("runs/*")) == before


def test_a_decoder_without_padding_is_given_one_to_classify_texts(models: Path) -> None:
    machine = Machine.of(Device.cpu, 1, Precision.fp32)
    tested = opened(f"{models}/padless", None, None, CausalLM(), machine).tested
    assert tested.tokenizer.pad_token_id == tested.tokenizer.eos_token_id
    classifier = Classifier(make_classifier(tested.model, 2, seed=0), torch.float32).eval()
    rows, segments = [[5, 6, 7], [8, 9]], [[0] * 3, [0] * 2]
    texts = Texts(rows, segments, np.array([0, 1]), tested.tokenizer.pad_token_id)
    beside = texts.batch(np.arange(2))
    together_NC = classifier(*beside.inputs).logits_NV
    for number, row in enumerate(rows):
        ids_BL = torch.tensor([row])
        alone = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
        alone_NC = classifier(alone).logits_NV
        torch.testing.assert_close(together_NC[number], alone_NC[0])
