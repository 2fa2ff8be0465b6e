"""One line for a library's exception: the mistake, and the nearest thing that would be right."""

import dataclasses
import errno
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from dwt_cli.base.atomic import NO_ROOM, is_stdout_full, no_room
from dwt_cli.base.errors import UserError, first_line, not_among
from dwt_cli.config import files
from dwt_cli.config.run import GROUPS_AND_SETTINGS, SCHEMAS, SEVERAL, RunOptions

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


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
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return f"{error.filename} is in the way: move it, or choose another place for the run"
    if isinstance(error, FileNotFoundError) and Path().stat().st_nlink == 0:
        return "the folder in which this was typed is gone: change to one that is there"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and is_stdout_full():
        return f"what is printed cannot be written ({error.strerror}): send it to another place"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return no_room(error.filename or "a file", error.errno)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"{text}: set run.root and run.cache to folders that can be written, with room"
    return text if isinstance(error, OSError) else None


def _of_composition(error: HydraException | OmegaConfBaseException) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group:
            return not_among(f"{group}={choice}", "choice", choice, error.options or ())
        return not_among(f"--config-name {choice}", "study or chain", choice, files.primaries())
    if found := re.search(r"Could not override '((?!hydra)[^']+)'", text):
        key, inner, kind = found[1], *(getattr(cause, a, None) for a in ("key", "object_type"))
        inside = (
            [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
        )
        if (first := key.partition(".")[0]) in ("chain", "advise"):
            return not_among(key, "setting", str(inner), inside, prefix=f"{first}.")
        if key.endswith(str(inner)) or not inside:
            return no_setting(key)
        return not_among(f"{key}: {inner}", "setting", str(inner), inside)
    if found := re.search(r"Error merging override (.+)", text):
        return _wrong_type(found[1].strip(), cause or error)
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"${{{found[1]}}}: there is no such setting; name another"
    raised = r"In '(.+?)': \w+ raised while composing config:\n\s*(.+?)\s*\n\s*full_key: (\S+)"
    if found := re.search(raised, text):
        return f"{found[3]}: {found[2]} (in '{found[1]}'); put the file right"
    reason = first_line(error)
    return f"{reason}; see dwt-train --hydra-help" if "hydra" in reason else reason


_WANTED = (
    (r"could not be converted to Integer", "a whole number is needed"),
    (r"could not be converted to Float", "a number is needed"),
    (r"is not a valid bool", "true or false is needed"),
    (r"expected one of \[(.+)\]", "choose one of {0}"),
    (r"is not a ListConfig", "a list is needed, as in {key}=[a,b]"),
    (r"is not Optional", "null is not possible; give a value"),
    (r"not a subclass of", "it has settings of its own: {inside}"),
)


def _wrong_type(override: str, error: BaseException) -> str:
    key = override.partition("=")[0].lstrip("+")
    if key.startswith(f"{getattr(error, 'full_key', None)}."):
        return no_setting(key)
    for pattern, wanted in _WANTED:
        if found := re.search(pattern, " ".join(str(error).split())):
            inside = ", ".join(f"{key}.{name}" for name in _settings_of(key))
            return f"{override}: {wanted.format(*found.groups(), key=key, inside=inside)}"
    reason = first_line(error)
    return f"{override}: {reason[0].lower()}{reason[1:]}"


def is_setting(key: str) -> bool:
    """Return whether some choice of its group has such a setting, or it is a group."""
    group, _, name = key.partition(".")
    return not name or name in _settings_of(group)


def no_setting(key: str, known: Sequence[str] = GROUPS_AND_SETTINGS) -> str:
    """Return the line for a group or a setting that there is not, or not for this command."""
    group, _, name = key.rpartition("@")[2].replace("/", ".").partition(".")
    every = _settings_of(group) if group in known else {}
    if having := every.get(name):
        has = "has" if len(having) == 1 else "have"
        return f"{key}: not a setting of the chosen {group}; {' or '.join(having)} {has} it"
    if group == key and every:
        return f"{key}: the config has no such group; begin it with `defaults: [config, _self_]`"
    if group in known and not every:
        return f"{key}: {group} is one value; write {group}=VALUE"
    default = {home: f"{files.defaults()[home]}." for home in SEVERAL}
    homes = [group] if every else known
    full = [f"{home}.{default.get(home, '')}{name or group}" for home in homes]
    if full := [each for each in full if is_setting(each)]:
        return f"{key}: write {' or '.join(full)}"
    if not every:
        return not_among(key, "group or setting", re.split("[./@]", key)[0], known)
    choice = name.rpartition(".")[0]  # its settings, where a group has several at once
    beside = [each for each in every if each.startswith(f"{choice}.")] or sorted(every)
    return not_among(key, "setting", name, beside, prefix=f"{group}.")


def _settings_of(group: str) -> dict[str, list[str]]:
    """Return the settings of a group, each with the choices that have it."""
    if group == "run":
        return {name: [] for name in _names(RunOptions)}
    found: dict[str, list[str]] = {}
    for choice in files.groups().get(group, ()):
        for name in _names(SCHEMAS[group][str(files.schema(group, choice))]):
            full = f"{choice}.{name}" if group in SEVERAL else name
            found.setdefault(full, []).append(f"{group}={choice}")
    return found


def _names(node: type) -> Iterator[str]:
    """Yield the fields of a class, and with a dot those of the classes in it, of any kind."""
    hints = typing.get_type_hints(node)
    for name, kind in ((f.name, hints[f.name]) for f in dataclasses.fields(node)):
        yield name
        for part in typing.get_args(kind) if isinstance(kind, UnionType) else (kind,):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                for each in (part, *part.__subclasses__()):
                    yield from (f"{name}.{inner}" for inner in _names(each))
