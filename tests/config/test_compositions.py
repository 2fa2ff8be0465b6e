"""What is offered works: any mixture of choices trains. tests/golden composes every choice."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dwt_cli.config import files
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import SCHEMAS
from tests.miniature import options, write_text
from tests.record import carry_out

NUM_MIXTURES, NUM_BY_DEFAULT = 100, 4
# they need more than a miniature run in one process has
LEFT_OUT = ("data", "tracker", "launch", "parallel", "eval", "tuning")

CHOICES = [(group, choice) for group, choices in files.groups().items() for choice in choices]


def test_no_yaml_is_left_out() -> None:
    on_disk = list(files.SETTINGS.rglob("*.yaml"))
    primary = list(files.SETTINGS.glob("*.yaml"))
    assert len(CHOICES) + len(primary) == len(on_disk)
    assert {group for group, _ in CHOICES} == SCHEMAS.keys()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compositions")
    write_text(folder / "text", num_documents=30)
    return folder


Draw = Callable[[random.Random], object]

SETTINGS: dict[str, Draw] = {
    "task.mask_ratio": lambda draw: draw.choice([0.15, 0.3, 0.4]),
    "task.random_ratio": lambda draw: draw.choice([0.0, 0.1, 0.5]),
    "objective.logits.temperature": lambda draw: round(draw.uniform(0.5, 4), 2),
    "objective.logits.tau_squared": lambda draw: draw.choice(["true", "false"]),
    "alpha.hard": lambda draw: draw.choice([0.0, 0.5, 1.0]),
    "alpha.soft": lambda draw: draw.choice([0.3, 1.0, 2.5]),
    "optim.lr": lambda draw: draw.choice(["1e-4", "1e-3"]),
    "optim.warmup": lambda draw: draw.choice([0.0, 0.01]),
    "optim.decay": lambda draw: draw.choice([0.0, 0.5, 0.8]),
    "optim.weight_decay": lambda draw: draw.choice([0.0, 0.1]),
    "train.micro_batch_size": lambda draw: draw.choice([2, 4, "null"]),
    "train.precision": lambda draw: draw.choice(["fp32", "bf16"]),
    "train.non_finite": lambda draw: draw.choice(["stop", "skip"]),
    "train.log_every": lambda draw: draw.choice([1, 2]),
    "train.keep_checkpoints": lambda draw: draw.choice([1, 3]),
    "eval.num_blocks": lambda draw: draw.choice([4, 8]),
    "student.num_layers": lambda draw: draw.randint(2, 4),
    "student.dropout": lambda draw: draw.choice([0.0, 0.1]),
    "scale.family": lambda draw: draw.choice(["bert", "modernbert"]),
    "scale.num_heads": lambda draw: draw.choice([1, 2, 4]),
    "seed": lambda draw: draw.randint(0, 9),
}

# one model, which is not virtual
ASKING_ONE = ("attention", "minilm", "minilmv2", "hidden", "let", "masked_hidden", "alm", "uld")
# of a student that exists: tests/recipe/test_labelled.py
LABELLED = ("classification", "glue", "packages")
# a student as wide as its teacher
AS_WIDE = ("paper", "stack", "interpolate", "zero_init")
MINIATURE = ["train.max_steps=2", "scale.teacher_steps=2", "scale.epochs=null"]


def mixture(number: int, place: Path) -> list[str]:
    """A random command: a choice of some groups, and some settings, all within range."""
    draw = random.Random(number)
    chosen = {
        group: draw.choice([choice for choice in choices if choice not in LABELLED])
        for group, choices in files.groups().items()
        if group not in LEFT_OUT
    }
    if number % 5:
        chosen["signal"] = "online"
    elif chosen["signal"] != "online":  # one model's whole rows are kept, for one objective
        top_k = chosen["signal"] == "top_k"
        chosen |= {"teacher": "small", "revise": "none", "explore": "none"}
        chosen["objective"] = "top_k" if top_k else "logits"
        chosen["select"] = "all" if chosen["select"] == "uncertain" else chosen["select"]
    as_wide = ["width", "num_heads", "mlp_width"]  # a scale may have teachers of another size
    if chosen["teacher"] == "checkpoint":  # needs a model of the drawn shape: tests/test_cli.py
        chosen["teacher"] = "none"
    chosen["student"] = "large"  # the other one too
    chosen["task"] = "clm" if chosen["scale"] == "decoder" else chosen["task"]
    if chosen["objective"] in ("alm", "uld"):  # of decoders alone
        chosen["task"] = "clm"
    if chosen["teacher"] in ("virtual", "label_smoothing") and chosen["select"] == "uncertain":
        chosen["select"] = "all"  # that teacher is as certain on every row
    if chosen["teacher"] == "self":  # by its features alone, and no loss is followed
        chosen |= {"objective": "self_features", "select": "all"}
        chosen["alpha"] = "normal" if chosen["alpha"] == "overtake" else chosen["alpha"]
    elif chosen["objective"] == "self_features":
        chosen["objective"] = "logits"
    if chosen["objective"] in ASKING_ONE:
        chosen["explore"] = "none"  # what is written has the soft loss alone
    if chosen["teacher"] in ("none", "virtual", "label_smoothing", "several", "self"):
        chosen["remap"], chosen["explore"] = "random", "none"
        if chosen["objective"] in ASKING_ONE:
            chosen["objective"] = "logits"
    if chosen["teacher"] in ("virtual", "label_smoothing", "several", "self", "untrained"):
        chosen["order"] = "random" if chosen["order"] != "all" else "all"  # one that can score
    if chosen["teacher"] == "narrow" and chosen["remap"] in AS_WIDE:
        chosen["remap"] = "net2net"
    more = ["teacher.num_layers=2"] if chosen["teacher"] == "made" else []
    more += ["teacher.members=[very_weak,virtual]"] if chosen["teacher"] == "several" else []
    fit = [name for name in sorted(SETTINGS) if _fits(name, chosen["objective"])]
    if chosen["teacher"] == "narrow":  # it has half of them, of the same size
        fit.remove("scale.num_heads")
    some = draw.sample(fit, 6)
    last = ["remap.steps=2"] if chosen["remap"] == "ligo" else []
    last += ["student.num_layers=4"] if chosen["teacher"] == "self" else []
    last += ["alpha.until=1"] if chosen["alpha"] == "crossover" else []  # no room to calibrate
    family = ["scale.family=modernbert"]
    if chosen["task"] == "clm":
        family = [f"scale.family={draw.choice(['qwen3', 'llama', 'gpt2'])}", "scale.vocab_size=300"]
        last += family
        some = [name for name in some if not name.startswith("task.")]
    if chosen["remap"] in ("zero_init", "lemon"):  # pre-LN, and no deeper teacher
        last = [*last, *family, "student.num_layers=4", "scale.teacher_num_layers=4"]
    return [
        *options(place),
        *MINIATURE,
        *(f"scale.teacher_{size}=${{scale.{size}}}" for size in as_wide),
        *(f"{group}={choice}" for group, choice in chosen.items()),
        *more,
        *(f"{name}={SETTINGS[name](draw)}" for name in some),
        *last,
    ]


def _fits(setting: str, objective: str) -> bool:
    """Objectives have their settings under their own names."""
    return not setting.startswith("objective.") or setting.split(".")[1] == objective


def works(number: int, place: Path) -> None:
    words = mixture(number, place)
    (run,), _ = runs_of(words)
    assert carry_out(run).folder.is_dir(), words


@pytest.mark.parametrize("number", range(NUM_BY_DEFAULT))
def test_a_mixture_takes_two_steps(number: int, place: Path) -> None:
    works(number, place)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_BY_DEFAULT, NUM_MIXTURES))
def test_any_mixture_takes_two_steps(number: int, place: Path) -> None:
    works(number, place)


def test_all_mixtures_are_different(place: Path) -> None:
    words = [mixture(number, place) for number in range(NUM_MIXTURES)]
    assert len({tuple(each) for each in words}) == NUM_MIXTURES


def test_the_mixtures_use_every_choice(place: Path) -> None:
    used = {word for number in range(NUM_MIXTURES) for word in mixture(number, place)}
    every = {f"{group}={choice}" for group, choice in CHOICES if group not in LEFT_OUT}
    labelled = {f"task={name}" for name in LABELLED}
    assert every - used == {"teacher=checkpoint", "student=checkpoint", *labelled}
