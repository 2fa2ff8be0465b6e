"""Random command lines that are likely right, of every kind of training, on miniatures.

A number draws its words by itself: choices of the groups, then settings of what they compose, with
values within their ranges. Rules across rooms are not known here: what they refuse is drawn again.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Range, walk
from dwt_cli.config.files import groups
from dwt_cli.models.options import Family, Head
from tests.golden.identities import composed
from tests.miniature import SCALE

Settings = dict[str, str]
"""Words of a command, by name."""

STEPS = 2
MASKED, DECODER = "model", "decoder"
"""Folders of two models of two layers."""

REFUSALS = UserError, HydraException, OmegaConfBaseException
"""What the front door makes a line of."""

_BASE = dict(word.split("=") for word in SCALE) | {
    "scale.num_layers": "2",
    "scale.teacher_num_layers": "2",
    "scale.max_steps": str(STEPS),
    "scale.teacher_steps": "2",
    "eval.num_blocks": "4",
    "data": "files",
    "data.path": "text",
    "data.heldout_fraction": "0.2",
    "launch.device": "cpu",
}
_NARROW = {f"scale.teacher_{size}": "8" for size in ("width", "mlp_width")} | {
    "scale.teacher_num_heads": "1"
}
_NEEDED: dict[str, Settings] = {
    "teacher=made": {"teacher.num_layers": "1"},
    "signal=top_k": {"objective": "top_k"},
    "remap=ligo": {"remap.steps": "2"},
    **{
        f"remap={name}": _NARROW
        for name in ("aki", "decorrelated", "fpi", "lemon", "net2net", "tile")
    },
}
"""What a choice asks for, or takes too long without."""

_OPEN = {"order": 0.2, "explore": 0.15, "revise": 0.3, "select": 0.3, "eval": 0.3}
_SHARE = 0.6
"""How likely a group has another choice than its default: what excludes most is drawn seldom."""

_FIXED = (
    *("data.path", "scale", "run", "launch", "parallel", "jobs", "tracker", "choices", "overrides"),
    *("train.max_steps", "train.epochs", "train.max_minutes", "train.compile", "eval.num_blocks"),
    *("data.block_length", "data.vocab_size", "data.max_gb", "alpha.calibration", "eval.glue"),
    *("teacher.vocab_size", "student.vocab_size", "task.num_train", "task.num_heldout"),
)
"""Settings that a miniature has its own values of, or that are about something else."""

_MOST_SETTINGS = 5
"""Settings of a command beside its groups, at most."""

_MOST = 8
"""Highest value that is drawn where a range has no end near it."""


def kind_of(number: int) -> str:
    """Return the kind of a number's command."""
    return TURNS[number % len(TURNS)]


def drawn(number: int, attempt: int) -> list[str]:
    """Return the words of an attempt at a number's command, for `MASKED` and what is beside it."""
    draw = random.Random(f"{number}, {attempt}")
    sizes = _BASE | _sizes(draw)
    own = KINDS[kind_of(number)](draw)
    words = {name: each for name, each in (sizes | own.words).items() if name not in own.without}
    in_chain = [name for name in words if name.startswith("chain.")]
    as_run = {name: each for name, each in words.items() if name not in in_chain} | own.composed
    words |= _some_settings(draw, as_run)
    return [*own.begin, *(f"{name}={value}" for name, value in words.items())]


@dataclass(frozen=True)
class Drawn:
    """What makes a command one of a kind.

    begin: words before all others. words: its own. composed: what stands for a chain's own where
    settings are looked for. without: words that it may not have.
    """

    words: Settings
    begin: list[str] = field(default_factory=list)
    composed: Settings = field(default_factory=dict)
    without: tuple[str, ...] = ()


def _masked(draw: random.Random) -> Drawn:
    return Drawn(_taught(draw) | _family(draw, "mlm"))


def _causal(draw: random.Random) -> Drawn:
    return Drawn(_taught(draw) | _family(draw, "clm"))


def _cached(draw: random.Random) -> Drawn:
    """Only one model's whole rows are kept, for one objective."""
    task = draw.choice(["mlm", "clm"])
    signal = draw.choice(["sampled", "threshold", "top_k"])
    objective = {"top_k": "top_k"}.get(signal, "logits")
    own = _choices(draw, "alpha", "remap", "optim", "select", "eval") | _family(draw, task)
    own |= {"signal": signal, "objective": objective, "teacher": "small"}
    return Drawn(own | {"signal.num_entries": str(draw.choice([4, 8, 12]))})


def _opened(draw: random.Random) -> Drawn:
    """A checkpoint that learns, with a part of its weights or all, or that teaches."""
    task, path = draw.choice([("mlm", MASKED), ("clm", DECODER)])
    own = _choices(draw, "optim", "select", "objective") | {"task": task}
    learns, teaches = draw.choice([(True, False), (True, True), (False, True)])
    if learns:
        own |= {"student": "checkpoint", "student.path": path}
        own |= {"tuning": draw.choice(groups()["tuning"])}
    if teaches:
        own |= _choices(draw, "alpha") | {"teacher": "checkpoint", "teacher.path": path}
    else:
        own |= {"teacher": "none"}
    if not learns:
        own |= _choices(draw, "remap") | _family(draw, task)
    return Drawn(own, without=_OF_TOKENIZERS)


_OF_TOKENIZERS = ("scale.vocab_size", "data.tokenizer_kind")
_LABELLED: list[Settings] = [
    {"task": "packages", "task.packages": "[numpy,scipy]", "task.num_train": "24",
     "task.num_heldout": "10"},
    {"task": "classification", "task.path": "classes.jsonl"},
    {"task": "classification", "task.path": "numbers.jsonl", "task.regression": "true"},
    {"task": "glue", "task.name": "RTE", "task.path": "glue"},
    {"task": "glue", "task.name": "STS-B", "task.path": "glue"},
]  # fmt: skip


def _labelled(draw: random.Random) -> Drawn:
    own = draw.choice(_LABELLED) | _choices(draw, "optim", "tuning")
    own |= {"student": "checkpoint", "student.path": MASKED, "teacher": "none"}
    return Drawn(own, without=(*_OF_TOKENIZERS, "data", "data.path", "data.heldout_fraction"))


def _ranks(draw: random.Random) -> Drawn:
    parallel = {"launch": "torchrun", "launch.gpus": "2", "parallel": draw.choice(["ddp", "fsdp"])}
    return Drawn(_taught(draw) | _family(draw, draw.choice(["mlm", "clm"])) | parallel)


def _grades(draw: random.Random) -> Drawn:
    task, path = draw.choice([("mlm", MASKED), ("clm", DECODER)])
    layers = draw.choice(["[3]", "[3,4]", "[1]", "[4]", "[2,3]"])
    own = {"chain.teacher": path, "chain.layers": layers, "task": task} | _family(draw, task)
    own |= {"chain.same": "true"} if layers == "[2,3]" else {}
    own |= _choices(draw, "alpha", "optim", "objective", "select")
    if draw.random() < 0.5:
        own |= {"remap": draw.choice(["stack", "interpolate", "zero_init", "random"])}
    as_run = {"teacher": "checkpoint", "teacher.path": path}
    without = (*_OF_TOKENIZERS, "scale.teacher_steps", "scale.num_layers", "student.num_layers")
    return Drawn(own, ["-cn", "grades"], as_run, without)


def _ernie_tiny(draw: random.Random) -> Drawn:
    labelled = dict(draw.choice(_LABELLED))
    own = {"chain.teacher": MASKED, "chain.task": labelled.pop("task")}
    own["chain.task"] = labelled.pop("task.name", own["chain.task"])
    own |= labelled | {"chain.steps": f"[{','.join([str(STEPS)] * 5)}]"}
    own |= {"student.num_layers": draw.choice("123")} | _choices(draw, "optim", "remap")
    own |= {"chain.alone": "true"} if draw.random() < 0.3 else {}
    return Drawn(own, ["-cn", "ernie_tiny"], {"teacher": "none"}, _OF_TOKENIZERS)


def _study(draw: random.Random) -> Drawn:
    of_arms = {"seed": "0,1", "teacher": draw.choice(["none,small", "virtual,weak", "none,self"])}
    own = _choices(draw, "alpha", "optim") | _family(draw, draw.choice(["mlm", "clm"]))
    arms = draw.choice(list(of_arms))
    return Drawn(own | {arms: of_arms[arms]}, ["-m"], {"seed": "0", "teacher": "none"})


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "masked LM": _masked,
    "decoder": _causal,
    "cached signal": _cached,
    "opened model": _opened,
    "labelled texts": _labelled,
    "2 ranks": _ranks,
    "chain: grades": _grades,
    "chain: ernie_tiny": _ernie_tiny,
    "study": _study,
}
TURNS = [
    *("masked LM", "decoder", "cached signal", "labelled texts", "chain: grades"),
    *("decoder", "masked LM", "opened model", "decoder", "study"),
    *("masked LM", "decoder", "cached signal", "labelled texts", "chain: ernie_tiny"),
    *("decoder", "masked LM", "opened model", "masked LM", "2 ranks"),
]
"""The kinds in their order, which begins again after the last."""


def _taught(draw: random.Random) -> Settings:
    """Draw the groups of a student with a teacher, or without."""
    own = _choices(draw, *_OF_DISTILLATION)
    if own.get("teacher") == "several":
        members = ["small", "very_weak", "untrained", "label_smoothing", "virtual"]
        own["teacher.members"] = f"[{','.join(draw.sample(members, draw.choice([2, 3])))}]"
    if own.get("teacher") == "checkpoint":
        own["teacher.path"] = MASKED
    if own.get("teacher") == "self":
        own["objective"] = "self_features"
    return own


_OF_DISTILLATION = (
    *("teacher", "objective", "revise", "select", "explore", "order", "alpha", "remap", "optim"),
    "eval",
)


def _choices(draw: random.Random, *names: str) -> Settings:
    """Draw choices of groups, each or none, and what they need."""
    found: Settings = {}
    for name in names:
        if draw.random() < _OPEN.get(name, _SHARE):
            found[name] = draw.choice([each for each in groups()[name] if each != "imported"])
            found |= _NEEDED.get(f"{name}={found[name]}", {})
    if "objective" in found and draw.random() < 0.3:
        other = draw.choice(groups()["objective"])
        found["objective"] = f"[{found['objective']},{other}]"
    measured = found.pop("eval", None)
    return found | _MEASURED.get(str(measured), {})


_MEASURED: dict[str, Settings] = {
    **{
        name: {"eval": name, f"eval.{name}.path": f"{name}.jsonl"}
        for name in ("lambada", "hellaswag", "arc")
    },
    "glue": {"eval": "glue", "eval.glue.path": "glue", "eval.glue.tasks": "[RTE]",
             "eval.glue.num_seeds": "1"},
    "probing": {"eval": "probing", "eval.probing.num_sentences": "40",
                "eval.probing.num_words": "4", "eval.probing.num_per_word": "4"},
    "lm": {"eval.at": "[0,1]"},
}  # fmt: skip
"""Measures that have their files here."""


def _family(draw: random.Random, task: str) -> Settings:
    head = Head.masked if task == "mlm" else Head.causal
    families = [each.name for each in Family if each.predicts is head]
    own = {"task": task, "scale.family": draw.choice(families)}
    return own | ({"scale.vocab_size": draw.choice(["260", "300"])} if task == "clm" else {})


def _sizes(draw: random.Random) -> Settings:
    """Draw the sizes of a miniature, of students and teachers alike."""
    width, num_heads = draw.choice([(16, 2), (16, 4), (24, 2), (32, 4), (16, 1)])
    sizes = {"width": width, "num_heads": num_heads, "mlp_width": draw.choice([16, 24])}
    own = {f"scale.{name}": str(size) for name, size in sizes.items()}
    own |= {f"scale.teacher_{name}": str(size) for name, size in sizes.items()}
    own |= {"scale.block_length": draw.choice(["16", "24", "33"])}
    own |= {"scale.batch_size": draw.choice(["4", "7", "8"])}
    own |= {"scale.micro_batch_size": draw.choice(["null", "null", "1", "3", "4"])}
    own |= {"scale.num_layers": draw.choice("1234"), "scale.teacher_num_layers": draw.choice("12")}
    return own | {"seed": str(draw.randrange(10))}


def _some_settings(draw: random.Random, words: Settings) -> Settings:
    """Draw values of some settings of a command; of none, if it is refused without them."""
    try:
        run = composed(" ".join(f"'{name}={value}'" for name, value in words.items()))
    except REFUSALS:
        return {}
    found = list(walk(run))
    times = Counter(setting for setting, _, _ in found)
    each = {
        setting: values
        for setting, value, bounds in found
        if times[setting] == 1 and not setting.startswith(_FIXED) and setting not in words
        if (values := list(_values(value, bounds)))
    }
    names = draw.sample(sorted(each), min(len(each), draw.randint(0, _MOST_SETTINGS)))
    return {name: draw.choice(each[name]) for name in names}


def _values(value: Any, bounds: Range | None) -> Iterator[str]:
    """Yield values of a setting that are within its range."""
    if isinstance(value, Enum):
        yield from (each.name for each in type(value))
    elif isinstance(value, bool):
        yield from ("true", "false")
    elif bounds:
        low, high = bounds.low, min(bounds.high, _MOST)
        near = [low, high, 1, 2, 3]
        if isinstance(value, float):
            near += [value / 2, 2 * value, (low + min(high, 1)) / 2]
        for number in dict.fromkeys(near):
            text = f"{number:.4g}" if isinstance(value, float) else str(math.ceil(number))
            if bounds.problem("", float(text)) is None:
                yield text
