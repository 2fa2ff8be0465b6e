"""One line for a library's exception: the mistake, and the nearest thing that would be right."""

import dataclasses
import errno
import re
import typing
from collections.abc import Iterator, Sequence
from types import UnionType

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dwt_cli.base.errors import UserError, nearest, not_among
from dwt_cli.config import files
from dwt_cli.config.run import GROUPS_AND_SETTINGS, SCHEMAS, SEVERAL, RunOptions
from dwt_cli.data.options import HubPart

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def answer(error: BaseException) -> str | None:
    """Return the line for what a person can put right; None for the program's own fault."""
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


_OF_HYDRA = (
    (r"Interpolation key '([^']+)' not found", "${{{0}}}: there is no such setting; name another"),
    (
        r"In '(.+?)': \w+ raised while composing config:\n\s*(.+?)\s*\n\s*full_key: (\S+)",
        "{2}: {1} (in '{0}'); put the file right",
    ),
)


def _of_composition(error: BaseException) -> str:
    text, both = str(error), f"{error} {error.__cause__}"
    if found := re.search(r"'([^']+)'.*Key '([^']+)' not in 'HubPart'", both, re.S):
        parts = ", ".join(f.name for f in dataclasses.fields(HubPart))
        return f"{found[1]}: a part has no {found[2]} (it has: {parts})"
    if found := re.search(r"Could not override '((?!hydra)[^']+)'", text):
        return no_setting(found[1])
    if found := re.search(r"Error merging override (.+)", text):
        return _wrong_type(found[1].strip(), error.__cause__ or error)
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        return not_among(f"--config-name {found[1]}", "study", found[1], files.sweeps())
    for pattern, line in _OF_HYDRA:
        if found := re.search(pattern, text):
            return line.format(*found.groups())
    reason = _first_line(error)
    return f"{reason}; see dwt-train --hydra-help" if "hydra" in reason else reason


def is_setting(key: str) -> bool:
    """Return whether some choice of its group has such a setting, or it is a group."""
    group, _, name = key.partition(".")
    return not name or name in _settings_of(group)


def no_choice(group: str, choice: str) -> str:
    """Return the line for a choice that a group does not have."""
    choices = files.groups().get(group)
    if choices is None:
        return no_setting(group)
    return (
        f"{group}={choice}: no such choice{nearest(choice, choices)} (choices: "
        f"{', '.join(choices)})"
    )


def no_setting(key: str, known: Sequence[str] = GROUPS_AND_SETTINGS) -> str:
    """Return the line for a group or a setting that there is not, or not for this command."""
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
            return f"{key}: name the {group} too, as in {group}.{first}"
    if name in every:
        return f"{key}: not a setting of the chosen {group}; {_who_has(group, name)}"
    return (
        f"{key}: no such setting{nearest(name, every, prefix=group + '.')} "
        f"({group} has: {', '.join(_beside(name, every))})"
    )


def _beside(name: str, every: list[str]) -> list[str]:
    """Return the settings of the same choice, where a group has several at once."""
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
    """Yield the fields of a class, and with a dot those of the classes in it, of any kind."""
    kinds = typing.get_type_hints(node)
    for name in (f.name for f in dataclasses.fields(node)):
        yield name
        kind = kinds[name]
        for part in typing.get_args(kind) if isinstance(kind, UnionType) else (kind,):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                for each in (part, *part.__subclasses__()):
                    yield from (f"{name}.{inner}" for inner in _names(each))


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
