"""Checks of a command line's words, before Hydra parses them.

Hydra answers a misspelt word in the terms of its grammar, or not at all. Here each gets one line
that shows how to write it.
"""

import difflib
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from dwt_cli.base.errors import UserError
from dwt_cli.config import explain, files
from dwt_cli.config.run import GROUPS_AND_SETTINGS, SEVERAL, STUDY_SETTINGS, is_list

_OPEN = ("hydra", "study.")  # what a person may add to
_HOW = "write GROUP=CHOICE or GROUP.SETTING=VALUE"


@dataclass(frozen=True)
class Command:
    """The typed words: Hydra's own options, and the overrides.

    arguments: the same words in an order that Hydra understands, its options last.
    """

    arguments: list[str]
    options: Namespace
    overrides: list[Override]
    primary: str

    @property
    def is_study(self) -> bool:
        """Whether the primary config is that of a study, which has arms and lengths."""
        return _is_study(self.options)


def read(
    arguments: list[str],
    primary: str = "config",
    known: Sequence[str] = GROUPS_AND_SETTINGS,
) -> Command:
    """Parse the words; raises `UserError` for the first word that cannot be what was meant.

    primary: the config that is composed. known: the first words of its settings.
    """
    parser = get_args_parser()
    _check_options(arguments, parser, known)
    options = parser.parse_intermixed_args(arguments)
    theirs = options.config_dir is not None
    if options.config_name in files.sweeps() and not theirs:
        options.config_dir = str(files.sweeps_folder())
        arguments = [*arguments, "--config-dir", options.config_dir]
    if _is_study(options):
        known = STUDY_SETTINGS
    ordered = [*options.overrides, *_without(arguments, options.overrides)]
    if options.shell_completion:
        return Command(arguments, options, [], primary)
    _check_places(options)
    for number, word in enumerate(options.overrides):
        _check_form(word, options.overrides[number + 1 :], known)
    overrides = _parsed(options.overrides)
    extended = theirs or any("searchpath" in o.key_or_group for o in overrides)
    for override in overrides:
        if not extended:
            _check_choice(override)
        if not extended or override.type in (OverrideType.ADD, OverrideType.FORCE_ADD):
            _check_setting(override, known)
        if options.config_name is None and not options.multirun:
            _check_single(override, overrides)
    return Command(ordered, options, overrides, primary)


def _is_study(options: Namespace) -> bool:
    if not options.config_name:
        return False
    name = options.config_name.removesuffix(".yaml")
    return files.is_study(Path(options.config_dir or files.sweeps_folder()), name)


def _without(words: list[str], taken: list[str]) -> list[str]:
    left = list(words)
    for word in reversed(taken):
        del left[len(left) - 1 - left[::-1].index(word)]
    return left


def _parsed(words: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(words)


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()]


# ------------------------------------------------------------------------------------- options


def _check_options(arguments: list[str], parser: ArgumentParser, known: Sequence[str]) -> None:
    names = [name for action in parser._actions for name in action.option_strings]
    for number, word in enumerate(arguments):
        dashed, equals, value = word.partition("=")
        if not word.startswith("-") or any(name.startswith(dashed) for name in names):
            continue
        name = dashed.lstrip("-")
        if name.split(".")[0] in known:
            following = arguments[number + 1 : number + 2]
            given = value if equals else "".join(following) or "..."
            raise UserError(f"{word}: settings have no dashes; write {name}={given}")
        near = difflib.get_close_matches(dashed, names, n=1, cutoff=0.7)
        hint = f", did you mean {near[0]}?" if near else ";"
        raise UserError(f"{word}: no such option{hint} settings have no dashes, as in seed=3")

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see dwt-train --help")

    parser.error = refuse  # type: ignore[method-assign]


def _check_places(options: Namespace) -> None:
    if options.config_dir is not None and not Path(options.config_dir).is_dir():
        raise UserError(f"--config-dir {options.config_dir}: there is no such folder; name one")
    if options.config_name is not None and "/" in options.config_name:
        raise UserError(
            f"--config-name {options.config_name}: this is one choice, not a whole run; write "
            f"{options.config_name.removesuffix('.yaml').replace('/', '=')}"
        )
    if options.experimental_rerun is not None:  # it would unpickle the file: that runs code
        raise UserError(
            f"--experimental-rerun {options.experimental_rerun}: not here; a run is found again by "
            "the same command"
        )


# ----------------------------------------------------------------------------------- overrides


def _check_form(word: str, following: list[str], known: Sequence[str]) -> None:
    if "=" not in word and not word.startswith("~"):
        raise UserError(_bare(word, following, known))
    if not word.partition("=")[0].lstrip("+~").strip():
        raise UserError(f"{word}: no setting stands before the '='; {_HOW}")
    try:
        _parsed([word])
    except HydraException as error:
        raise UserError(_unreadable(word)) from error


def _bare(word: str, following: list[str], known: Sequence[str]) -> str:
    rest = [part for part in following[:2] if part != "="]
    groups = files.groups()
    if word in groups and rest and rest[0] in groups[word]:
        return (
            f"{word} {' '.join(following[: following.index(rest[0]) + 1])}: write {word}={rest[0]}"
        )
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
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return (
                f"{word}: {opening} and {closing} do not match; write {key}={opening}...{closing}"
            )
    try:
        _parsed([f"{key}={_quoted(value)}"])
    except HydraException:
        return f"{word}: cannot be read as a setting; {_HOW}"
    return (
        f"{word}: such a value is quoted twice, for the shell and for dwt-train; "
        f"write '{key}={_quoted(value)}'"
    )


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '\\"') + '"'


def _check_setting(override: Override, known: Sequence[str]) -> None:
    """Raise `UserError` for a setting that no choice has, and for one added or taken away."""
    key = override.key_or_group
    if key.startswith(_OPEN):
        return
    if re.split("[./]", key)[0] not in known or not explain.is_setting(key):
        raise UserError(explain.no_setting(key, known))
    if override.package is not None:
        return
    if override.type is OverrideType.ADD:
        raise UserError(f"+{key}: it is there already; leave out the +")
    if override.type is OverrideType.DEL:
        raise UserError(f"~{key}: a setting cannot be left out; give it another value")


def _check_choice(override: Override) -> None:
    group = override.key_or_group
    choices = files.groups().get(group)
    if choices is None:
        return
    word, is_own = str(override.input_line), override.package is None
    if is_own and override.type is OverrideType.DEL:
        raise UserError(
            f"{word}: every run has one; write {group}=CHOICE (choices: {', '.join(choices)})"
        )
    if is_own and override.type is not OverrideType.CHANGE:
        raise UserError(f"{word}: {group} is always chosen; write {word.lstrip('+')}")
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP or override.type is OverrideType.DEL:
        return
    for value in _values(override):
        chosen = value.partition("=")[2].strip("'\"")
        several = group in SEVERAL and chosen.startswith("[")
        for choice in chosen.strip("[]").split(",") if several and chosen != "[]" else [chosen]:
            if choice.strip() not in choices:
                raise UserError(explain.no_choice(group, choice.strip()))


def _check_single(override: Override, overrides: list[Override]) -> None:
    if any(o.key_or_group == "hydra.mode" for o in overrides):
        return
    if override.is_sweep_override():
        key, word = override.get_key_element(), str(override.input_line)
        value = override.get_value_string()
        if is_list(key):
            raise UserError(f"{word}: this is a list; write {key}=[{value}]")
        together = f", {key}=[{value}] for all in one run" if key in SEVERAL else ""
        raise UserError(
            f"{word}: several values are several runs; write dwt-train -m {shlex.quote(word)}"
            f"{together}, or choose one of them"
        )
