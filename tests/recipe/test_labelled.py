"""``task=classification`` from its command to what it leaves behind."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE
from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.checkpoint import save_model
from dwt_cli.models.making import make_model
from dwt_cli.recipe.divergence import Known
from dwt_cli.recipe.labelled import LabelledStage
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.stage import Site
from dwt_cli.tasks.texts import LabelledTexts, Texts
from dwt_cli.track.display import Display
from dwt_cli.training.checkpoint import Checkpoints
from tests.conftest import VOCAB_SIZE, tiny_architecture
from tests.miniature import SCALE, dwt_train
from tests.record import Done, carry_out, metrics

Composed = Callable[..., Run]
SIGNS = {"calm": "bark", "loud": "tossa", "slow": "num"}


def write(path: Path, num_texts: int, seed: int) -> Path:
    draw, lines = random.Random(seed), []
    words = [f"{a}{b}" for a in "bdgl" for b in ("elin", "ive")]
    for _ in range(num_texts):
        label = draw.choice(sorted(SIGNS))
        text = [SIGNS[label], *draw.choices(words, k=draw.randint(2, 8))]
        lines.append(json.dumps({"text": " ".join(text), "label": label}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """Labelled texts, and language models with one tokenizer."""
    folder = tmp_path_factory.mktemp("labelled")
    write(folder / "train.jsonl", 90, seed=0)
    write(folder / "dev.jsonl", 21, seed=1)
    for name, family in (("bert", "bert"), ("modernbert", "modernbert")):
        model = make_model(tiny_architecture(family), 0, "student")
        save_model(model, corpus.tokenizer, folder / name)
    return folder


def words_of(place: Path, *words: str, student: str = "modernbert") -> list[str]:
    return [
        *SCALE,
        f"scale.vocab_size={VOCAB_SIZE}",
        "scale.block_length=10",
        "train.precision=fp32",
        "optim=adamw",
        "optim.lr=1e-2",
        "task=classification",
        f"task.path={place}/train.jsonl",
        f"task.dev_path={place}/dev.jsonl",
        "student=checkpoint",
        f"student.path={place}/{student}",
        f"run.cache={place}/cache",
        f"run.root={place}/runs",
        "teacher=none",
        *words,
    ]


def train(composed: Composed, place: Path, *words: str, **more: Any) -> Done:
    run = composed(*words_of(place, *words, **more))
    run.overrides = list(words)
    return carry_out(run)


def of_saved(folder: Path, place: Path) -> tuple[float, float]:
    """Return loss and accuracy of the model that a run has saved, by plain calls, text by text."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.id2label == dict(enumerate(sorted(SIGNS)))
    nats = correct = 0.0
    rows = list(map(json.loads, (place / "dev.jsonl").read_text().splitlines()))
    for row in rows:
        given = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=10)
        with torch.no_grad():
            logits_NC = model(given.input_ids).logits
        label = model.config.label2id[row["label"]]
        nats += F.cross_entropy(logits_NC, torch.tensor([label])).item()
        correct += logits_NC.argmax().item() == label
    return nats / len(rows), correct / len(rows)


@pytest.fixture(scope="module")
def tuned(place: Path, composed: Composed) -> tuple[Path, str]:
    """The folder of a classifier that has learned the task, and what was printed."""
    return train(composed, place, "train.max_steps=null", "train.epochs=5", "eval.every=30")


def test_a_fine_tuned_model_is_a_classifier_of_the_library(tuned: tuple[Path, str]) -> None:
    folder, printed = tuned
    summary = json.loads((folder / "summary.json").read_text())
    student = summary["student"]
    assert student["steps"] == 5 * (90 // 8)
    assert student["epochs"] == 5
    assert student["heldout"]["accuracy"] > 0.5
    assert student["tokens"] == student["steps"] * round(8 * summary["corpus"]["train_tokens"] / 90)
    assert "90 texts to train on, 21 held out: a file of its own" in printed
    assert "cut to 10 tokens (scale.block_length)" in printed
    assert "perplexity" not in printed
    card = (folder / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    loss, accuracy = of_saved(folder, folder.parents[1])
    assert student["heldout"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert student["heldout"]["accuracy"] == pytest.approx(accuracy)


def test_a_student_listens_to_a_teacher_that_knows_the_task(
    composed: Composed, place: Path, tuned: tuple[Path, str]
) -> None:
    teacher = [f"teacher.path={tuned[0]}", "alpha=normal", "alpha.soft=2", "alpha.hard=0.5"]
    folder, printed = train(composed, place, "teacher=checkpoint", *teacher, student="bert")
    before = json.loads((tuned[0] / "summary.json").read_text())["student"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher"]["heldout"] == pytest.approx(before["heldout"])
    assert summary["student"]["num_taught"] == 6
    of_steps = [line for line in metrics(folder) if "train/loss" in line]
    for line in of_steps:
        wanted = 0.5 * line["train/hard_loss"] + 2 * line["train/soft_loss"]
        assert line["train/loss"] == pytest.approx(wanted, rel=1e-5)
    assert summary["cost"]["teacher_forward_flops"] > 0
    assert "what the teacher brought" in printed


FEATURES = ["objective=[attention,hidden,minilmv2]", "objective.hidden.pairs=null"]


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True], ids=["with labels", "features alone"])
def test_features_of_layers_are_compared_on_labelled_texts(
    composed: Composed, place: Path, tuned: tuple[Path, str], alone: bool
) -> None:
    """Padding changes nothing: micro-batches have less of it than a step's batch."""
    words = [*FEATURES, "teacher=checkpoint", f"teacher.path={tuned[0]}", "alpha=normal"]
    words += ["alpha.hard=0"] if alone else ["train.max_steps=2"]
    roots = [f"run.root={place}/{'alone' if alone else 'both'}-{parts}" for parts in (1, 4)]
    whole, _ = train(composed, place, *words, roots[0])
    parts, _ = train(composed, place, *words, "train.micro_batch_size=2", roots[1])
    for ours, theirs in zip(metrics(parts), metrics(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    losses = [line for line in metrics(whole) if "train/loss" in line]
    assert {"train/soft_attention", "train/soft_hidden", "train/soft_minilmv2"} <= losses[0].keys()
    if alone:
        assert losses[-1]["train/soft_loss"] < losses[0]["train/soft_loss"]


def chosen_among(tuned: tuple[Path, str]) -> list[str]:
    """The words of two teachers, of which a policy chooses."""
    members = f"teacher.members=[{tuned[0]},label_smoothing]"
    return ["teacher=several", members, "teacher.weighting=reinforced", "teacher.episode=2"]


@pytest.mark.slow
def test_a_policy_chooses_among_teachers_text_by_text(
    composed: Composed, place: Path, tuned: tuple[Path, str]
) -> None:
    found = []
    for name, more in (("whole", []), ("parts", ["train.micro_batch_size=2"])):
        words = [*chosen_among(tuned), "seed=6", *more, f"run.root={place}/policy-{name}"]
        folder, _ = train(composed, place, *words)
        found.append([line for line in metrics(folder) if "train/loss" in line])
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    of_first = [line["train/policy_1"] for line in found[0]]
    assert of_first[:2] == [0.5, 0.5] and of_first[-1] != 0.5


def test_texts_are_tokenised_once(
    composed: Composed, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(place, f"run.cache={tmp_path}", "task.text_columns=[text,text]")
    at = Site(Machine(torch.device("cpu"), torch.float32), Cache(str(tmp_path), print), ALONE)
    quiet = Display(Console(quiet=True), {"corpus": 0.0})

    def texts(words: list[str] = words) -> LabelledTexts:
        found: LabelledTexts = recipe_of(composed(*words)).corpus.carry_out({}, at.at(place, quiet))
        return found

    def stopped(*given: Any, **named: Any) -> Any:
        raise AssertionError("they are kept")

    first = texts()
    with monkeypatch.context() as patched:
        patched.setattr(Texts, "tokenised", stopped)
        again = texts()
        with pytest.raises(AssertionError, match="they are kept"):
            texts([*words, "scale.block_length=9"])
    assert again.report == first.report
    for ours, theirs in ((again.train, first.train), (again.heldout[""], first.heldout[""])):
        assert (ours.ids, ours.segments, ours.pad_id) == (
            theirs.ids,
            theirs.segments,
            theirs.pad_id,
        )
        assert np.array_equal(ours.labels, theirs.labels) and ours.labels.dtype == np.int64
    (file,) = tmp_path.glob("labelled/*/0.npz")
    file.write_bytes(file.read_bytes()[:-9])
    assert texts().train.ids == first.train.ids
    assert list(tmp_path.glob("labelled/*.damaged"))


def test_how_far_a_model_is_from_one_that_knows_the_task(
    composed: Composed, place: Path, tuned: tuple[Path, str]
) -> None:
    """By plain calls, text by text; a language model has no classes to be compared."""
    texts = recipe_of(composed(*words_of(place))).corpus
    assert isinstance(texts, LabelledStage)
    known = Known(texts, tuned[0])
    assert known.divergence(tuned[0], True) == pytest.approx(
        {"classes": 0, "attention": 0}, abs=1e-6
    )
    other = place / "other"
    model = AutoModelForSequenceClassification.from_pretrained(tuned[0] / "model")
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    tokenizer = AutoTokenizer.from_pretrained(tuned[0] / "model")
    save_model(model, tokenizer, other)
    found, total = known.divergence(other, True), 0.0
    its = AutoModelForSequenceClassification.from_pretrained(tuned[0] / "model")
    rows = list(map(json.loads, (place / "dev.jsonl").read_text().splitlines()))
    for row in rows:
        given = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=10)
        with torch.no_grad():
            t_C, p_C = (m.eval()(given.input_ids).logits[0].softmax(-1) for m in (its, model))
        total += sum(t * math.log(t / p) for t, p in zip(t_C.tolist(), p_C.tolist(), strict=True))
    assert found["classes"] == pytest.approx(total / len(rows), rel=1e-3)
    assert found["attention"] > 1e-6
    assert known.divergence(place / "modernbert", True).keys() == {"attention"}
    assert known.divergence(other, False).keys() == {"attention"}  # its head was not trained


@pytest.mark.slow
def test_several_teachers_of_a_task_are_mixed(
    composed: Composed, place: Path, tuned: tuple[Path, str]
) -> None:
    members = [f"teacher.members=[{tuned[0]},label_smoothing]", "teacher.weighting=token"]
    folder, _ = train(composed, place, "teacher=several", *members, "select=uncertain")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher"]["heldout"]["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("is_chosen", [False, True])
def test_what_is_stopped_goes_on_to_the_bit(
    composed: Composed,
    place: Path,
    tuned: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    is_chosen: bool,
) -> None:
    words = ["train.max_steps=24", "train.checkpoint_every=4", "seed=3"]
    if is_chosen:  # it is stopped within an episode
        words += [*chosen_among(tuned), "teacher.episode=5"]
    whole, _ = train(composed, place, *words, f"run.root={place}/whole{is_chosen}")
    save, stopped = Checkpoints.save, []

    def stop(self: Checkpoints, *given: Any) -> None:
        save(self, *given)
        if given[-1].step >= 14:  # in the second epoch
            stopped.append(given[-1].step)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(composed, place, *words)
    assert stopped[0] < 24
    again, _ = train(composed, place, *words)
    assert metrics(again) == metrics(whole)
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (again, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def numbers(place: Path) -> list[str]:
    """The words of a task whose labels are numbers: how often a text has a word."""
    for part in ("train", "dev"):
        rows = [json.loads(line) for line in (place / f"{part}.jsonl").read_text().splitlines()]
        for row in rows:
            row["label"] = 2.5 if row["label"] == "loud" else 0.5
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{part}-numbers.jsonl").write_text(lines)
    files = [f"task.path={place}/train-numbers.jsonl", f"task.dev_path={place}/dev-numbers.jsonl"]
    return [*files, "task.regression=true", "train.max_steps=40"]


def test_numbers_are_predicted_and_taught(
    composed: Composed, place: Path, numbers: list[str]
) -> None:
    alone, printed = train(composed, place, *numbers)
    found = json.loads((alone / "summary.json").read_text())["student"]["heldout"]
    assert found.keys() == {"loss", "pearson", "spearman"}
    assert found["pearson"] > 0.5
    model = AutoModelForSequenceClassification.from_pretrained(alone / "model")
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    tokenizer, squares = AutoTokenizer.from_pretrained(alone / "model"), []
    for line in (place / "dev-numbers.jsonl").read_text().splitlines():
        row = json.loads(line)
        given = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=10)
        with torch.no_grad():
            squares.append((model(given.input_ids).logits.item() - row["label"]) ** 2)
    assert found["loss"] == pytest.approx(np.mean(squares), rel=1e-4)
    assert "squared error per text" in (alone / "model" / "README.md").read_text()

    teacher = ["teacher=checkpoint", f"teacher.path={alone}", "objective=mse", "alpha=normal"]
    words = [*numbers, *teacher, "alpha.soft=2", "train.max_steps=4"]
    taught, printed = train(composed, place, *words, student="bert")
    summary = json.loads((taught / "summary.json").read_text())
    assert summary["teacher"]["heldout"] == pytest.approx(found)
    for each in (line for line in metrics(taught) if "train/loss" in line):
        wanted = each["train/hard_loss"] + 2 * each["train/soft_loss"]
        assert each["train/loss"] == pytest.approx(wanted, rel=1e-5)
        assert each["train/teacher_loss"] > 0
    assert "nats" not in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["teacher=virtual"], "teacher=.* with task=.*one model's number"),
        (["teacher.path=X", "objective=logits"], "objective=logits with .*choose objective=mse"),
        (["teacher.path=X", "objective=mse", "objective.mse.temperature=2"], "a number has none"),
        (
            ["teacher.path=X", "objective=mse", "teacher.temperature=2"],
            r"^teacher\.temperature with .*a number has none",
        ),
        (
            ["teacher.path=X", "objective=mse", "select=uncertain"],
            "select=.*classes",
        ),
        (["teacher.path=X", "objective=mse", "revise=label_revision"], "revise=.*classes"),
    ],
)
def test_what_numbers_do_not_have_is_one_line(
    composed: Composed, place: Path, numbers: list[str], words: list[str], line: str
) -> None:
    run = composed(*words_of(place, *numbers, "teacher=checkpoint", *words))
    with pytest.raises(UserError, match=line) as caught:
        check.check(run)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_micro_batches_change_nothing_but_rounding(composed: Composed, place: Path) -> None:
    whole, _ = train(composed, place, "seed=4")
    parts, _ = train(composed, place, "seed=4", "train.micro_batch_size=2", f"run.root={place}/mb")
    for ours, theirs in zip(metrics(parts), metrics(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_task_of_glue_has_its_own_metrics_and_dev_sets(
    composed: Composed, place: Path, glue_folder: Path
) -> None:
    words = [word for word in words_of(place) if not word.startswith("task.")]
    run = composed(*words, "task=glue", "task.name=MNLI", f"task.path={glue_folder}")
    run.overrides = []
    folder, printed = carry_out(run)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["student"]["heldout"].keys() == {"loss", "accuracy", "accuracy_MNLI-mm"}
    assert "40 texts to train on, 20, 20 held out: dev_matched.tsv" in printed
    assert "MNLI/train.tsv: 40 examples, officially 392,702" in printed


@pytest.mark.slow
def test_a_decoder_is_tuned_by_the_last_token_of_each_text(
    composed: Composed, place: Path, corpus: Corpus
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    save_model(make_model(tiny_architecture("qwen3"), 0, "student"), tokenizer, place / "qwen3")
    folder, _ = train(composed, place, student="qwen3")
    heldout = json.loads((folder / "summary.json").read_text())["student"]["heldout"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.pad_token_id == tokenizer.eos_token_id
    assert of_saved(folder, place) == pytest.approx(
        (heldout["loss"], heldout["accuracy"]), rel=1e-4
    )


MEMBERS = "teacher.members=[virtual,label_smoothing]"
BOTH = ["teacher=several", MEMBERS, "teacher.weighting=reinforced"]
REFUSED = [
    (["teacher=small"], "teacher=.*does not know the task"),
    (["remap=stack"], "remap=.*own weights"),
    (["signal=threshold", "teacher=virtual"], "signal=.*choose signal=online"),
    (["objective=masked_hidden"], "objective=masked_hidden with task=.*classes are compared"),
    (["alpha=crossover"], "alpha=.*choose another alpha"),
    (["data.tokenizer=own"], "data.tokenizer=own"),
    (["train.compile=auto"], "train.compile=auto"),
    ([*BOTH, "teacher.reward=probe"], "teacher.reward=probe with task="),
    (["parallel=fsdp", "launch=torchrun", "launch.gpus=2"], "parallel=.*not sharded"),
    (["eval=probing"], "eval=.*language models"),
    (["eval.at=[0.5,1]"], r"eval\.at=\[0\.5,1\] with task="),
    (["task.text_columns=[a,b,c]"], "task.text_columns=.*one column, or two"),
]


@pytest.mark.parametrize(("words", "line"), REFUSED)
def test_what_has_no_meaning_here_is_one_line(
    composed: Composed, place: Path, words: list[str], line: str
) -> None:
    run = composed(*words_of(place, *words))
    with pytest.raises(UserError, match=line) as caught:
        check.check(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["objective=top_k", "objective.top_k.k=4"],
            r"objective\.top_k\.k=4: .* 3 tokens or classes",
        ),
        (["teacher.confidence=0.33"], r"teacher\.confidence=0\.33: it is above 0\.33"),
    ],
)
def test_rules_over_the_vocabulary_are_over_classes(
    composed: Composed, place: Path, words: list[str], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        train(composed, place, "teacher=virtual", *words)


def test_a_share_beside_a_dev_part_is_warned_of(composed: Composed, place: Path) -> None:
    run = composed(*words_of(place))
    run.overrides = ["task.dev_share=0.2"]
    assert "task.dev_share has no effect with task.dev_path" in check.warnings(run)


def test_a_study_of_labelled_texts_has_a_plan(composed: Composed, place: Path) -> None:
    student = recipe_of(composed(*words_of(place), "train.max_steps=3"))
    count = int(student.corpus.texts.train.lengths.sum())
    assert student.corpus.known_tokens(Cache(place / "cache", print)) == count > 0


def test_rows_without_a_token_are_batched_as_token_ids() -> None:
    texts = Texts([[], [5, 6]], [[], [0, 0]], np.array([0, 1]), 0)
    ids = texts.batch(np.arange(2)).named["input_ids"]
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[0, 0], [5, 6]]


def test_a_task_that_glue_has_not_is_one_line(composed: Composed, place: Path) -> None:
    words = [word for word in words_of(place) if not word.startswith("task.")]
    with pytest.raises(UserError, match=r"task\.name=RTF"):
        check.check(composed(*words, "task=glue", "task.name=RTF", "task.path=GLUE"))


@pytest.mark.slow
def test_a_teacher_of_another_task_is_one_line(
    composed: Composed, place: Path, tuned: tuple[Path, str]
) -> None:
    def refused(teacher: Path | str, *words: str) -> str:
        with pytest.raises(UserError) as caught:
            train(composed, place, "teacher=checkpoint", f"teacher.path={teacher}", *words)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    others = {"calm": "zen", "loud": "loud", "slow": "slow"}
    renamed = place / "renamed.jsonl"
    renamed.write_text("".join(json.dumps(r | {"label": others[r["label"]]}) + "\n" for r in rows))
    own = ["task.dev_path=null", f"task.path={renamed}"]
    assert "in the order calm, loud, slow, the task's loud, slow, zen" in refused(tuned[0], *own)
    turned = Path(shutil.copytree(tuned[0] / "model", place / "turned"))
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = dict(enumerate(reversed(config["id2label"].values())))
    (turned / "config.json").write_text(json.dumps(config))
    assert "in the order slow, loud, calm, the task's calm, loud, slow" in refused(turned)
    fewer = place / "fewer.jsonl"
    fewer.write_text("".join(json.dumps(r) + "\n" for r in rows if r["label"] != "calm"))
    own = ["task.dev_path=null", f"task.path={fewer}"]
    assert "it has 3 outputs (calm, loud, slow), the task 2" in refused(tuned[0], *own)
    assert "no classifier; a teacher knows the task" in refused(place / "bert")
    assert "a labelled text is read whole" in refused(tuned[0], "teacher.window=6")
    assert "train.batch_size=128: there are 90 texts" in refused(tuned[0], "train.batch_size=128")


def test_a_made_student_is_refused(composed: Composed, place: Path) -> None:
    words = [w for w in words_of(place) if not w.startswith("student")]
    with pytest.raises(UserError, match=r"student=.*starts from a model that exists"):
        check.check(composed(*words))


@pytest.mark.slow
@pytest.mark.parametrize("is_chosen", [False, True])
def test_two_ranks_train_as_one_does(place: Path, tuned: tuple[Path, str], is_chosen: bool) -> None:
    teacher = ["teacher=checkpoint", f"teacher.path={tuned[0]}", "alpha=normal", "seed=5"]
    if is_chosen:
        teacher = [*chosen_among(tuned), "alpha=normal", "seed=7"]
    found = []
    for name, more in (("one", []), ("two", ["launch=torchrun", "launch.gpus=2"])):
        own = [f"run.root={place}/{name}{is_chosen}", "launch.device=cpu", *teacher, *more]
        done = dwt_train(*words_of(place), *own, cwd=place)
        assert done.returncode == 0, done.stderr
        (folder,) = (place / f"{name}{is_chosen}").iterdir()
        found.append(metrics(folder))
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
