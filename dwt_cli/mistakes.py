"""A library's exception in one line: what is wrong, and the nearest thing that would be right."""

import dataclasses
import difflib
import re

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dwt_cli import settings
from dwt_cli.config import SCHEMAS, Run, RunOptions

ANSWERED = (HydraException, OmegaConfBaseException)


def in_one_line(error: BaseException) -> str:
    """The line for a mistake that Hydra or OmegaConf found; other errors as they are."""
    text = str(error)
    if found := re.search(r"Could not find '([^/']+)/([^']+)'", text):
        return _no_choice(*found.groups())
    if found := re.search(r"Could not override '((?!hydra)[^']+)'", text):
        return _no_setting(found.group(1))
    if found := re.search(r"Error merging override (\S+)", text):
        return _wrong_type(found.group(1), error)
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        return f"--config-name {found.group(1)}: there is no such file in conf/ or sweeps/"
    if "missing EQUAL" in text or "no viable alternative" in text or "mismatched input" in text:
        return f"{_first_line(error)}; write GROUP=CHOICE or GROUP.SETTING=VALUE"
    return " ".join(text.split())


def surplus(overrides: list[str]) -> str | None:
    """The line for a setting that was added although nothing reads it."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith("+") and not key.lstrip("+").startswith("hydra"):
            return _no_setting(key.lstrip("+"))
    return None


def _no_choice(group: str, choice: str) -> str:
    choices = settings.groups().get(group)
    if choices is None:
        return _no_setting(group)
    return (
        f"{group}={choice}: no such choice{_nearest(choice, choices)} (choices: "
        f"{', '.join(choices)})"
    )


def _no_setting(key: str) -> str:
    group = re.split("[./@]", key)[0]
    top = [f.name for f in dataclasses.fields(Run) if f.name not in ("choices", "overrides")]
    if group not in top or "." not in key:
        return (
            f"{key}: no such group or setting{_nearest(group, top)} (there are: {', '.join(top)})"
        )
    every = _settings_of(group)
    name = key.split(".", 1)[1]
    if name in every:
        kinds = [
            schema
            for schema, node in SCHEMAS[group].items()
            if name in {f.name for f in dataclasses.fields(node)}
        ]
        with_it = [
            choice
            for choice in settings.groups().get(group, [])
            if settings.schema(group, choice) in kinds
        ]
        return (
            f"{key}: not a setting of the chosen {group}; {' or '.join(with_it)} "
            f"{'has' if len(with_it) == 1 else 'have'} it"
        )
    return (
        f"{key}: no such setting{_nearest(name, every, prefix=group + '.')} "
        f"({group} has: {', '.join(every)})"
    )


def _settings_of(group: str) -> list[str]:
    nodes = [*SCHEMAS.get(group, {"": RunOptions}).values()]
    return sorted({f.name for node in nodes for f in dataclasses.fields(node)})


def _wrong_type(override: str, error: BaseException) -> str:
    reason = _first_line(error.__cause__ or error)
    return f"{override}: {reason[0].lower()}{reason[1:]}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _nearest(word: str, words: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f", did you mean {prefix}{near[0]}?" if near else ""
