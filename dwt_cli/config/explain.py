"""A library's exception in one line: what is wrong, and the nearest thing that would be right."""

import dataclasses
import errno
import re
import typing
from collections.abc import Iterator, Sequence

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dwt_cli.base.errors import UserError, nearest, not_among
from dwt_cli.config import files
from dwt_cli.config.run import GROUPS_AND_SETTINGS, SCHEMAS, SEVERAL, RunOptions
from dwt_cli.data.options import HubPart

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


_OPEN = ("hydra", "study.arms.")  # what a person may add to


def answer(error: BaseException) -> str | None:
    """The line for what a person can put right; None for what is the program's own fault."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _of_composition(error)
    if isinstance(error, yaml.YAMLError):
        return f"a settings file is not YAML: {text}; put it right"
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller scale"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"{text}: set run.root and run.cache to folders that can be written, with room"
    return text if isinstance(error, OSError) else None


def _of_composition(error: BaseException) -> str:
    text, both = str(error), f"{error} {error.__cause__}"
    if found := re.search(r"Could not find '((?!hydra)[^/']+)/([^']*)'", text):
        return no_choice(*found.groups())
    if found := re.search(
        r"Could not override '([^']+)'.*Key '([^']+)' not in 'HubPart'", both, re.S
    ):
        parts = ", ".join(f.name for f in dataclasses.fields(HubPart))
        return f"{found.group(1)}: a part has no {found.group(2)} (it has: {parts})"
    if found := re.search(r"Could not (?:override|delete from config\.) '((?!hydra)[^']+)'", text):
        return no_setting(found.group(1))
    if found := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{found.group(1)}: it is there already; leave out the +"
    if found := re.search(r"Error merging override (~\S+)", text):
        return f"{found.group(1)}: a setting cannot be left out; give it another value"
    if found := re.search(r"Error merging override (.+)", text):
        return _wrong_type(found.group(1).strip(), error.__cause__ or error)
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        return _no_config(found.group(1))
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"${{{found.group(1)}}}: there is no such setting; refer to another"
    composing = r"(In '.+?'): \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)"
    if found := re.search(composing, text):
        place, reason, key = found.groups()
        return f"{key}: {reason.strip()} ({place[0].lower()}{place[1:]}); put the file right"
    reason = _first_line(error)
    return f"{reason}; see dwt-train --hydra-help" if "hydra" in reason else reason


def surplus(overrides: list[str]) -> str | None:
    """The line for a setting that was added although nothing reads it."""
    for override in overrides:
        key = override.partition("=")[0]
        name = key.lstrip("+")
        if key.startswith("+") and not name.startswith(_OPEN) and not _is_setting(name):
            return no_setting(name)
    return None


def _is_setting(key: str) -> bool:
    group, _, name = key.partition(".")
    return group in GROUPS_AND_SETTINGS if not name else name in _settings_of(group)


def _no_config(name: str) -> str:
    return not_among(f"--config-name {name}", "study", name, files.sweeps())


def no_choice(group: str, choice: str) -> str:
    """The line for a choice that a group does not have."""
    choices = files.groups().get(group)
    if choices is None:
        return no_setting(group)
    return (
        f"{group}={choice}: no such choice{nearest(choice, choices)} (choices: "
        f"{', '.join(choices)})"
    )


def no_setting(key: str, known: Sequence[str] = GROUPS_AND_SETTINGS) -> str:
    """The line for a group or a setting that there is not, or not for this command."""
    group = re.split("[./@]", key)[0]
    home, _, place = key.partition("@")[2].partition(".")
    if place and place in _settings_of(home):
        return f"{key}: not a setting of the chosen {home}; {_who_has(home, place)}"
    if group == key and group in SCHEMAS and group in known:
        return f"{key}: the config has no such group; begin it with `defaults: [config, _self_]`"
    groups = [name for name in SCHEMAS if name in known]
    if homes := [name for name in groups if "." not in key and key in _settings_of(name)]:
        return f"{key}: write {' or '.join(f'{name}.{key}' for name in homes)}, with its group"
    if group not in known or "." not in key:
        return (
            f"{key}: no such group or setting{nearest(group, known)} "
            f"(there are: {', '.join(known)})"
        )
    every = _settings_of(group)
    if not every:
        return f"{key}: {group} is one value; write {group}=VALUE"
    name = key.split(".", 1)[1]
    if group in SEVERAL and "." not in name:
        named = [setting for setting in every if setting.endswith(f".{name}")]
        if named and name not in files.groups()[group]:
            chosen = files.defaults()[group]
            first = f"{chosen}.{name}" if f"{chosen}.{name}" in named else named[0]
            return f"{key}: say of which {group}, as in {group}.{first}"
    if name in every:
        return f"{key}: not a setting of the chosen {group}; {_who_has(group, name)}"
    return (
        f"{key}: no such setting{nearest(name, every, prefix=group + '.')} "
        f"({group} has: {', '.join(_beside(name, every))})"
    )


def _beside(name: str, every: list[str]) -> list[str]:
    """The settings of the same choice, where a group has several at once."""
    choice = name.rpartition(".")[0]
    return [setting for setting in every if setting.startswith(f"{choice}.")] or every


def _who_has(group: str, name: str) -> str:
    if group in SEVERAL:
        return f"{group}={name.split('.')[0]} has it"
    kinds = [
        schema
        for schema, node in SCHEMAS[group].items()
        if name in {f.name for f in dataclasses.fields(node)}
    ]
    with_it = [
        f"{group}={choice}"
        for choice in files.groups().get(group, [])
        if files.schema(group, choice) in kinds
    ]
    return f"{' or '.join(with_it)} {'has' if len(with_it) == 1 else 'have'} it"


def _settings_of(group: str) -> list[str]:
    if group in SEVERAL:
        return sorted(
            f"{choice}.{f.name}"
            for choice in files.groups()[group]
            for f in dataclasses.fields(SCHEMAS[group][str(files.schema(group, choice))])
        )
    nodes = {"": RunOptions} if group == "run" else SCHEMAS.get(group, {})
    return sorted({name for node in nodes.values() for name in _names(node)})


def _names(node: type) -> Iterator[str]:
    """The fields of a class, and with a dot those of the classes in it."""
    kinds = typing.get_type_hints(node)
    for name in (f.name for f in dataclasses.fields(node)):
        yield name
        kind = kinds[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from (f"{name}.{inner}" for inner in _names(kind))


_WANTED = (
    (r"could not be converted to Integer", "a whole number is needed"),
    (r"could not be converted to Float", "a number is needed"),
    (r"is not a valid bool", "true or false is needed"),
    (r"expected one of \[(.+)\]", "choose one of {0}"),
    (r"is not a ListConfig", "a list is needed, as in {key}=[a,b]"),
    (r"is not Optional", "null is not possible; give a value"),
    (r"str is not a subclass of \w+|not a subclass of", "it has settings of its own: {inside}"),
)


def _wrong_type(override: str, error: BaseException) -> str:
    key = override.partition("=")[0].lstrip("+")
    reason = " ".join(str(error).split())
    for pattern, wanted in _WANTED:
        if found := re.search(pattern, reason):
            inside = ", ".join(f"{key}.{name}" for name in _settings_of(key))
            return f"{override}: {wanted.format(*found.groups(), key=key, inside=inside)}"
    reason = _first_line(error)
    return f"{override}: {reason[0].lower()}{reason[1:]}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
