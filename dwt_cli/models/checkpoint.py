"""Models in the hub's format: folders and names are opened, folders are written.

Weights are read from safetensors, or with torch's weights-only loading; code that comes with a
model runs only when ``trust_remote_code`` was set by hand.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError, first_line
from dwt_cli.base.randomness import seed_for
from dwt_cli.models.anatomy import ANATOMIES, is_known, num_positions
from dwt_cli.models.making import auto
from dwt_cli.models.options import STUDENT_PATH, Checkpoint, Classes, Head, Predicts, located

_TYPES = {
    Head.masked: MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    Head.causal: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
"""The types of models that the library has with a head."""


def sizes(checkpoint: Checkpoint) -> tuple[int, int | None, int | None] | None:
    """Return the entries of a checkpoint's vocabulary, and the longest block that it reads.

    Last the longest that it was trained on, which its tokenizer says. None: a length that is not
    known here, and all of what `open_config` refuses.
    """
    try:
        path, revision = located("", checkpoint.path), checkpoint.revision
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        trained: int | None = get_tokenizer_config(path, revision=revision).get("model_max_length")
        return config.vocab_size, num_positions(config) if is_known(config) else None, trained
    except Exception:  # whatever the library says to files that it cannot read
        return None


def longer_than_trained(named: str, trained: int | None, block_length: int) -> list[str]:
    """Return the warning for a model that reads longer blocks than it was trained on, if any."""
    if trained is None or trained >= block_length:
        return []
    return [
        f"warning: {named} was trained on blocks of {trained} tokens and has not learned the "
        f"positions after them; it is given {block_length} at once"
    ]


def open_config(
    setting: str, checkpoint: Checkpoint, head: Predicts, any_family: bool = False
) -> PreTrainedConfig:
    """Return the configuration of a checkpoint; `UserError` for a model without such a head.

    setting: what names its path, as in ``teacher.path``. any_family: its logits are enough, its
    anatomy need not be known. Of a language model that becomes a classifier, that of the latter.
    """
    named, path = f"{setting}={checkpoint.path}", _located(setting, checkpoint)
    with _opening(named):
        raw, _ = PreTrainedConfig.get_config_dict(path, revision=checkpoint.revision)
        if not raw:
            raise FileNotFoundError("there is no config.json")
    if "auto_map" in raw and not checkpoint.trust_remote_code:
        role, _, name = setting.rpartition(".")
        consent = f"read it, then set {role}.trust_remote_code=true, or " if name == "path" else ""
        raise UserError(
            f"{named} comes with code of its own (auto_map in config.json), "
            f"which is not run: {consent}choose another model"
        )
    with _opening(named):
        config = AutoConfig.from_pretrained(
            path, revision=checkpoint.revision, trust_remote_code=checkpoint.trust_remote_code
        )
    if isinstance(head, Classes):
        for problem in _of_classifier(raw, config, head, needs_head=setting != STUDENT_PATH):
            raise UserError(f"{named} is a {config.model_type}: {problem}")
        return _labelled(config, head)
    sees_all = head is Head.causal and getattr(config, "use_bidirectional_attention", None)
    has_head = checkpoint.trust_remote_code or (
        config.model_type in _TYPES[head] and not _predicts_another_thing(raw, config, head)
    )
    known = sorted(name for name, anatomy in ANATOMIES.items() if anatomy.predicts is head)
    if sees_all or (config.model_type not in known and not (any_family and has_head)):
        kind = head.kind
        why = (
            f"here {kind}s of these types are trained on:"
            if has_head and not sees_all
            else f"it is no {kind}; among those that are known here are"
        )
        anatomy = ANATOMIES.get(config.model_type)
        other = f", or {anatomy.predicts.task}" if anatomy and anatomy.predicts is not head else ""
        raise UserError(
            f"{named} is a {config.model_type}: {why} {', '.join(known)}; choose one of them{other}"
        )
    return config


def _located(setting: str, checkpoint: Checkpoint) -> str:
    """Return what to open for a checkpoint; `UserError` where its index names files elsewhere."""
    path = located(setting, checkpoint.path)
    for index in Path(path).glob("*.index.json"):
        content = atomic.read_json(index)
        names = content.get("weight_map", {}) if isinstance(content, dict) else None
        if not isinstance(names, dict):
            raise UserError(
                f"{setting}={checkpoint.path} cannot be opened: {index.name} is no index of "
                "weights; choose another model"
            )
        for name in sorted({str(each) for each in names.values()}):
            if atomic.leaves(name):
                raise UserError(
                    f"{setting}={checkpoint.path} cannot be opened: {index.name} names {name}, "
                    "which is outside of its folder; choose another model"
                )
    return path


def _of_classifier(
    raw: dict[str, Any], config: PreTrainedConfig, classes: Classes, needs_head: bool
) -> Iterator[str]:
    """Yield why a checkpoint is, or becomes, no classifier of these classes."""
    known = sorted(ANATOMIES.keys() & MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys())
    if config.model_type not in known:
        yield f"classifiers of these types are known here: {', '.join(known)}; choose one of them"
    if not _is_classifier(raw.get("architectures")):
        if needs_head:
            yield (
                "no classifier; a teacher knows the task: fine-tune it first by the same command "
                "with student.path=IT teacher=none, and give that run's folder"
            )
        return
    there = [str(name) for _, name in sorted((config.id2label or {}).items())]
    unnamed = [f"LABEL_{number}" for number in range(len(there))]
    wanted = list(classes.names) or unnamed[:1]
    if len(there) != len(wanted):
        yield (
            f"it has {len(there)} outputs ({', '.join(there[:8])}), the task "
            f"{classes.num_outputs} ({', '.join(wanted[:8])}); choose a model of this task"
        )
    if there not in (wanted, unnamed):
        yield (
            f"its classes are in the order {', '.join(there[:8])}, the task's "
            f"{', '.join(wanted[:8])}; choose a model of this task (if it is one of an earlier "
            "version, name them so in its config.json)"
        )


def _is_classifier(architectures: list[str] | None) -> bool:
    """Return whether a model was saved as a classifier of texts."""
    return any(name.endswith("ForSequenceClassification") for name in architectures or ())


def _labelled(config: PreTrainedConfig, classes: Classes) -> PreTrainedConfig:
    """Return the configuration with the classes, or as that of a regression."""
    names = classes.names or ("LABEL_0",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "single_label_classification" if classes.names else "regression"
    if config.pad_token_id is None:  # a decoder has none; the tokenizer's is set beside it
        config.pad_token_id = 0
    return config


def _predicts_another_thing(raw: dict[str, Any], config: PreTrainedConfig, head: Head) -> bool:
    """Return whether a model of a type that has both heads was saved with the other one.

    The library would open it all the same: a masked model, asked for next tokens, has seen them.
    """
    (other,) = (each for each in Head if each is not head)
    saved = set(raw.get("architectures") or ())
    ours, theirs = (_TYPES[each].get(config.model_type) for each in (head, other))
    if theirs in saved:
        return ours not in saved
    return head is Head.causal and theirs is not None and not getattr(config, "is_decoder", True)


def open_model(
    setting: str, checkpoint: Checkpoint, head: Predicts, needs_head: bool = True
) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint's model, in fp32, and the weights of its head that it lacks.

    They are drawn anew. needs_head: raise `UserError` for them, as for any other weights.
    """
    if isinstance(head, Classes):
        return open_classifier(setting, checkpoint, head, seed=0)
    named = f"{setting}={checkpoint.path}"
    model, lacking = _open(setting, checkpoint, head)
    encoder = f"{model.base_model_prefix}."
    if missed := [name for name in lacking if needs_head or name.startswith(encoder)]:
        raise UserError(
            f"{named} lacks the weights {', '.join(missed[:3])}; choose a checkpoint of a "
            f"{auto(head).__name__.replace('AutoModel', '*')} model, saved with its head; "
            "without one it teaches by features alone (objective=minilmv2, remap.head=false, "
            "no alpha=overtake or crossover, order=all)"
        )
    if needs_head and _is_classifier(model.config.architectures):  # with rows that are tied
        raise UserError(
            f"{named} is a classifier of texts, which predicts no tokens; choose the language "
            "model that it was, or objective=hidden, by which it teaches"
        )
    return model, lacking


def open_classifier(
    setting: str, checkpoint: Checkpoint, classes: Classes, seed: int
) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint as a classifier, in fp32, and its weights that are fresh.

    Of a language model these are the head's, with a pooling layer that it lacks, drawn from
    ``seed``.
    """
    config = open_config(setting, checkpoint, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier", "weights"))
        model, lacking = _open(setting, checkpoint, classes, num_labels=classes.num_outputs)
    whole, body = _is_classifier(config.architectures), f"{model.base_model_prefix}."
    missed = [
        name for name in lacking if whole or (name.startswith(body) and ".pooler." not in name)
    ]
    if missed:
        named = f"{setting}={checkpoint.path}"
        raise UserError(f"{named} lacks the weights {', '.join(missed[:3])}; save it whole")
    _labelled(model.config, classes)
    return model, lacking


def _open(
    setting: str, checkpoint: Checkpoint, head: Predicts, **entries: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Return a checkpoint's model, in fp32, and the weights that it lacks, drawn anew.

    entries: of its configuration, instead of the checkpoint's.
    """
    named, path = f"{setting}={checkpoint.path}", _located(setting, checkpoint)
    with _opening(named):
        _check_sums(named, Path(path))
        model, report = auto(head).from_pretrained(
            path,
            revision=checkpoint.revision,
            trust_remote_code=checkpoint.trust_remote_code,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            **entries,
        )
    return model, sorted(report["missing_keys"])


def _check_sums(named: str, folder: Path) -> None:
    if name := atomic.changed(folder):
        raise UserError(
            f"{named} cannot be opened: {atomic.told(name)}; copy the folder anew, or remove "
            f"{atomic.SUMS} if you have changed it yourself"
        )


def open_folder(folder: Path, head: Predicts) -> PreTrainedModel:
    """Return a model that this project saved, in fp32; `UserError` if it has changed since."""
    _check_sums(str(folder), folder)
    model: PreTrainedModel = auto(head).from_pretrained(folder, dtype=torch.float32)
    return model


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer in the hub's format, with the sums that `_open` looks at.

    A decoder says which ids of the tokenizer begin, end and fill up a text.
    """
    if model.can_generate():
        for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
            number = getattr(tokenizer, role)
            for config in (model.config, model.generation_config):
                if number is not None and not isinstance(getattr(config, role), list):
                    setattr(config, role, number)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    atomic.write_sums(folder, "README.md")
    atomic.open_up(folder)


@contextlib.contextmanager
def _opening(named: str) -> Iterator[None]:
    """Raise `UserError` for whatever the library says to files that it cannot read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{named} cannot be opened: its weights are a pickle that may run "
            "code, or a torn one; choose a checkpoint with model.safetensors"
            if "Weights only load failed" in str(error)
            else f"{named} cannot be opened ({first_line(error)}); give a folder with "
            "config.json and model.safetensors, or a name on the hub"
        ) from error
