"""Checks of a command line's words, before Hydra parses them.

Hydra answers a misspelt word in the terms of its grammar, or not at all. Here each gets one line
that shows how to write it.
"""

import difflib
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.config import explain, files
from dwt_cli.config.chain import CHAIN_SETTINGS
from dwt_cli.config.run import GROUPS_AND_SETTINGS, SEVERAL, STUDY_SETTINGS

_OPEN = ("hydra", "study.", "chain.stages.")  # what a person may add to
_HOW = "write GROUP=CHOICE or GROUP.SETTING=VALUE"


def read(arguments: list[str], known: Sequence[str] = GROUPS_AND_SETTINGS) -> Namespace:
    """Return Hydra's own options, and the overrides; ``known``: the first words of its settings.

    Raises `UserError` for the first word that cannot be what was meant.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see dwt-train --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    asked, unknown = parser.parse_known_intermixed_args(arguments)
    for word in unknown:
        names = [name for action in parser._actions for name in action.option_strings]
        raise UserError(_dashed(word, arguments[arguments.index(word) + 1 :], names, known))
    is_ours = asked.config_dir is None
    for is_one, settings in ((files.is_study, STUDY_SETTINGS), (files.is_chain, CHAIN_SETTINGS)):
        if is_ours and is_one(asked.config_name):
            asked.config_dir = str(files.SWEEPS)
        if is_one(asked.config_name, asked.config_dir):
            known = settings
    if asked.shell_completion:
        return asked
    _check_options(asked)
    overrides = [
        _parsed(word, asked.overrides[number + 1 :], known)
        for number, word in enumerate(asked.overrides)
    ]
    is_ours &= not any("searchpath" in override.key_or_group for override in overrides)
    for override in overrides:
        if override.key_or_group == "hydra/launcher":
            jobs, asked_for = files.groups()["jobs"], override.get_value_element_as_str()
            near = next((name for name in jobs if asked_for.startswith(name)), " or ".join(jobs))
            raise UserError(f"{override.input_line}: launchers are chosen here by jobs={near}")
        if not override.key_or_group.startswith(_OPEN):
            _check_key(override, known)
            if is_ours:
                _check_choice(override)
    return asked


def _dashed(word: str, following: list[str], names: list[str], known: Sequence[str]) -> str:
    dashed, equals, value = word.partition("=")
    name = dashed.lstrip("-")
    if name.split(".")[0] in known:
        given = value if equals else "".join(following[:1]) or "..."
        return f"{word}: settings have no dashes; write {name}={given}"
    near = difflib.get_close_matches(dashed, names, n=1, cutoff=0.7)
    hint = f", did you mean {near[0]}?" if near else ";"
    return f"{word}: no such option{hint} settings have no dashes, as in seed=3"


def _check_options(asked: Namespace) -> None:
    name, folder = asked.config_name or "", asked.config_dir
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder; name one")
    if "/" in name:
        choice = name.removesuffix(".yaml").replace("/", "=")
        raise UserError(f"--config-name {name}: this is a choice, not a whole run; write {choice}")
    file, places = f"{name.removesuffix('.yaml')}.yaml", (files.SETTINGS, files.SWEEPS)
    if name and folder is None and not any((place / file).is_file() for place in places):
        raise UserError(
            not_among(f"--config-name {name}", "study or chain", name, files.primaries())
        )
    if asked.experimental_rerun is not None:  # it would unpickle the file: that runs code
        raise UserError(
            f"--experimental-rerun {asked.experimental_rerun}: not here; a run is found again by "
            "the same command"
        )


def _parsed(word: str, following: list[str], known: Sequence[str]) -> Override:
    if "=" not in word and not word.startswith("~"):
        raise UserError(_bare(word, following, known))
    if not word.partition("=")[0].lstrip("+~").strip():
        raise UserError(f"{word}: no setting stands before the '='; {_HOW}")
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UserError(_unreadable(word)) from error


def _bare(word: str, following: list[str], known: Sequence[str]) -> str:
    rest = [part for part in following[:2] if part != "="]
    groups = files.groups()
    if word in groups and rest and rest[0] in groups[word]:
        typed = " ".join(following[: following.index(rest[0]) + 1])
        return f"{word} {typed}: write {word}={rest[0]}"
    if word in groups:
        return f"{word}: give a choice, as in {word}={groups[word][0]} ({', '.join(groups[word])})"
    if word.split(".")[0] in known:
        value = rest[0] if rest and "=" not in rest[0] else "VALUE"
        return f"{word}: give a value, without spaces, as in {word}={value}"
    if homes := [group for group, choices in groups.items() if word in choices]:
        return f"{word}: write {' or '.join(f'{group}={word}' for group in homes)}"
    return f"{word!r}: {_HOW}; dwt-train --help shows them all"


def _unreadable(word: str) -> str:
    key, _, value = word.partition("=")
    if value.startswith("="):
        return f"{word}: one '=' too many; write {key}{value}"
    if key != key.strip() or value != value.strip():
        return f"{word}: no spaces around '='; write {key.strip()}={value.strip()}"
    for quote in "'\"":
        if value.count(quote) % 2:
            return f"{word}: a quote ({quote}) is opened and not closed; close it"
    for a, b in ("[]", "{}", "()"):
        if value.count(a) != value.count(b):
            return f"{word}: {a} and {b} do not match; write {key}={a}...{b}"
    escaped = value.replace('"', '\\"')
    quoted = f'{key}="{escaped}"'
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return f"{word}: cannot be read as a setting; {_HOW}"
    return f"{word}: quote such a value twice, for the shell and for dwt-train: write '{quoted}'"


def _check_key(override: Override, known: Sequence[str]) -> None:
    """Raise `UserError` for a group that there is not, and for what is added or taken away."""
    key, word = override.key_or_group, str(override.input_line)
    is_signed = override.type is not OverrideType.CHANGE and override.package is None
    if re.split("[./]", key)[0] not in known or (is_signed and not explain.is_setting(key)):
        raise UserError(explain.no_setting(key, known))
    if is_signed and override.type is OverrideType.DEL:
        what = "CHOICE" if key in files.groups() else "VALUE"
        raise UserError(f"{word}: it cannot be left out; give it another value: write {key}={what}")
    if is_signed:
        raise UserError(f"{word}: it is there already; leave out the +: write {word.lstrip('+')}")


def _check_choice(override: Override) -> None:
    group = override.key_or_group
    choices = files.groups().get(group)
    is_of_hydra = override.value_type is ValueType.GLOB_CHOICE_SWEEP
    if choices is None or is_of_hydra or override.type is OverrideType.DEL:
        return
    is_swept = override.is_sweep_override()
    values = override.sweep_string_iterator() if is_swept else [override.get_value_element_as_str()]
    for value in values:
        several = group in SEVERAL and value.startswith("[") and value != "[]"
        named = [
            each.strip("'\" ") for each in (value.strip("[]").split(",") if several else [value])
        ]
        for choice in named:
            if choice not in choices:
                raise UserError(not_among(f"{group}={choice}", "choice", choice, choices))
            if named.count(choice) > 1:
                once = ",".join(dict.fromkeys(named))
                raise UserError(f"{group}={value}: name {choice} once, as in {group}=[{once}]")
