"""A task's chain through the real command: four stages of distillation, killed and gone on."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dwt_cli.cli import main
from dwt_cli.study.chain import ChainRecord, write_chain
from tests.launch import test_chain
from tests.launch.test_chain import Refused, command, records, summaries
from tests.miniature import dwt_train, options
from tests.processes import Started

pytestmark = pytest.mark.slow

place = test_chain.place
refused = test_chain.refused

STAGES = ["tuned", "general", "enhanced", "adaptive", "specific"]
CONFIG = ("-cn", "ernie_tiny")
TASK = [
    *("chain.task=packages", "task.packages=[numpy,scipy]", "task.num_train=24"),
    *("task.num_heldout=10", "student.num_layers=2", "chain.steps=[6,4,4,4,4]"),
]


@pytest.fixture(scope="module")
def first(place: Path) -> Any:
    return dwt_train(*command(place, *TASK, config=CONFIG), cwd=place, timeout=400)


def weights(root: Path) -> list[bytes]:
    """Return the weights of each stage's model."""
    (file,) = root.glob("chains/*/chain.json")
    folders = [link["folder"] for link in json.loads(file.read_text())["links"]]
    return [(file.parent / each / "model/model.safetensors").read_bytes() for each in folders]


def test_a_student_deeper_than_its_teacher_goes_through_four_stages(
    place: Path,
    first: Any,
) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    table = records(place)[-1]["table"]
    of_stages = {row["stage"]: row for row in table if row["kind"] == "stage"}
    assert list(of_stages) == STAGES
    assert [row["layers"] for row in of_stages.values()] == [1, 2, 2, 2, 2]
    sums = [row["flops"] for row in of_stages.values()]
    assert of_stages["specific"]["flops_charged"] == pytest.approx(sum(sums))
    assert [row["divergence_attention"] is not None for row in of_stages.values()] == [
        *(False, True, True, True, True)
    ]
    knows_classes = [name for name in STAGES if of_stages[name]["divergence_classes"] is not None]
    assert knows_classes == ["specific"]  # the head of `adaptive` has learned nothing
    assert "specific, divergence on the task's dev texts: KL" in first.stdout
    (model,) = [line for line in first.stdout.splitlines() if line.startswith("model: ")]
    config = json.loads((Path(model.removeprefix("model: ")) / "config.json").read_text())
    assert config["architectures"] == ["ModernBertForSequenceClassification"]
    assert list(config["id2label"].values()) == ["numpy", "scipy"]


def test_words_that_change_in_the_middle_redo_what_follows(
    place: Path,
    first: Any,
) -> None:
    before = summaries(place)
    words = command(place, *TASK[:-1], "chain.steps=[6,4,4,5,4]", config=CONFIG)
    again = dwt_train(*words, cwd=place, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "5 runs, 3 of them finished before" in again.stdout
    after = summaries(place)
    assert before.items() <= after.items() and len(after) == len(before) + 2


def test_a_divergence_on_record_is_that_of_the_models_that_are_there(
    place: Path, first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start at which all is finished keeps what it had; of other weights it is another."""
    written: list[list[Any]] = []

    def write(folder: Path, record: ChainRecord) -> Any:
        written.append([link.divergence for link in record.links])
        return write_chain(folder, record)

    def again() -> Any:
        written.clear()
        with pytest.raises(SystemExit) as left:
            main.main()
        assert left.value.code == 0
        return written[-1][-1]

    monkeypatch.chdir(place)
    monkeypatch.setattr("dwt_cli.launch.chain.write_chain", write)
    monkeypatch.setattr("sys.argv", ["dwt-train", *command(place, *TASK, config=CONFIG)])
    before = again()
    assert written[0] == written[-1] and before is not None  # a kill after the first loses none
    (file,) = place.glob("runs/chains/*/chain.json")
    link = json.loads(file.read_text())["links"][-1]
    model = file.parent / link["folder"] / "model/model.safetensors"
    content = model.read_bytes()
    save_file({name: 2 * each for name, each in load_file(model).items()}, model, {"format": "pt"})
    other = again()
    model.write_bytes(content)
    assert other.run == before.run and other.values["classes"] != before.values["classes"]


def test_the_control_has_a_table_too(place: Path, first: Any) -> None:
    done = dwt_train(*command(place, *TASK, "chain.alone=true", config=CONFIG), cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {row["stage"]: row["steps"] for row in records(place)[-1]["table"]}
    assert (steps["tuned"], steps["begun"], steps["specific"]) == (6, 1, 15)


def test_two_ranks_go_through_the_stages_as_one_does(place: Path) -> None:
    short, found = [*TASK[:-1], "chain.steps=[3,3,3,3,3]", "train.precision=fp32"], []
    for root, ranks in (("one", []), ("two", ["launch=torchrun", "launch.gpus=2"])):
        own = [f"run.root={place}/{root}", "launch.device=cpu", *ranks]
        done = dwt_train(*command(place, *short, *own, config=CONFIG), cwd=place, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = place.glob(f"{root}/chains/*/chain.json")
        rows = [row for row in json.loads(file.read_text())["table"] if row["kind"] == "stage"]
        measured = ("heldout_before", "heldout_after", "divergence_attention")
        found.append({(row["stage"], key): row[key] or 0 for row in rows for key in measured})
    one, two = found
    assert two == pytest.approx(one, rel=1e-4) and len(one) == 3 * len(STAGES)


def test_a_decoder_is_a_teacher_where_general_text_is_for_next_tokens(place: Path) -> None:
    words = ["task=clm", "teacher=none", "student.num_layers=1", "run.name=decoder"]
    done = dwt_train(*options(place), *words, "scale.vocab_size=300", cwd=place)
    assert done.returncode == 0, done.stderr
    (decoder,) = place.glob("runs/decoder-*")
    words = command(place, *TASK, f"run.root={place}/decoders", config=CONFIG)
    words[words.index(f"chain.teacher={place}/small")] = f"chain.teacher={decoder}"
    refused = dwt_train(*words, cwd=place)
    (line,) = [x for x in refused.stderr.splitlines() if x.startswith("dwt-train:")]
    assert refused.returncode == 2 and line.endswith(", or task=clm"), line
    done = dwt_train(*words, "task=clm", cwd=place, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = place.glob("decoders/chains/*/chain.json")
    links = {link["name"]: link["folder"] for link in json.loads(file.read_text())["links"]}
    kinds = []
    for folder in links.values():
        config = json.loads((file.parent / folder / "model/config.json").read_text())
        kinds += config["architectures"]
    of_task, of_text = "Qwen3ForSequenceClassification", "Qwen3ForCausalLM"
    assert kinds == [of_task, of_text, of_text, of_task, of_task] and list(links) == STAGES


MISTAKES = [
    (["student.num_heads=4"], ["objective.attention", "4 heads, the teacher 2"]),
    (["chain.task=SST-2", "task.path=GLUE"], ["SST-2/dev.tsv is not there"]),
    (["chain.task=SST2"], ["chain.task=SST2", "did you mean SST-2?"]),
    (["alpha.hard=1"], ["the stage general sets alpha.hard=0"]),
]


@pytest.mark.parametrize(("words", "parts"), MISTAKES)
def test_a_mistake_is_one_line_and_begins_nothing(
    words: list[str], parts: list[str], place: Path, refused: Refused
) -> None:
    (place / "GLUE/SST-2").mkdir(parents=True, exist_ok=True)
    (place / "GLUE/SST-2/train.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    task = TASK[-2:] if words[0].startswith("chain.task") else TASK
    refused(command(place, *task, *words, config=CONFIG), parts)


@pytest.mark.parametrize("when", ["in a stage", "between stages"])
def test_a_chain_that_was_killed_goes_on_to_the_bit(
    place: Path,
    tmp_path: Path,
    when: str,
) -> None:
    for name in ("text", "small"):
        shutil.copytree(place / name, tmp_path / name)
    long = [*TASK[:-1], "chain.steps=[6,4,4,30,4]", "scale.checkpoint_every=5"]

    def words(root: str) -> list[str]:
        return command(place, *long, f"run.root={tmp_path}/{root}", config=CONFIG)

    def is_there() -> bool:
        adaptive = [f for f in tmp_path.glob("runs/*packages*") if (f / "checkpoints").is_dir()]
        if when == "in a stage":
            steps = [step for f in adaptive for step in (f / "checkpoints").glob("step-*")]
            return any(int(step.name.removeprefix("step-")) >= 10 for step in steps)
        return len(list(tmp_path.glob("runs/*/summary.json"))) == 2

    started = Started(words("runs"), tmp_path)
    try:
        started.wait_until(is_there)
        started.send(signal.SIGKILL)
        assert started.ended() == -signal.SIGKILL
    finally:
        Started.end_all()
    for root in ("runs", "whole"):
        done = dwt_train(*words(root), cwd=tmp_path, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
    one, other = (weights(tmp_path / root) for root in ("runs", "whole"))
    assert one == other and len(one) == 5
