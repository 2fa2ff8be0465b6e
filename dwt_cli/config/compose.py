"""Hydra's composed configs, turned into typed runs: one, or each of a multirun."""

import re
import shlex
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.config.chain import CHAINS, Chained, words_in
from dwt_cli.config.files import SETTINGS, SWEEPS, groups, state
from dwt_cli.config.run import SCHEMAS, SEVERAL, Run, Scale
from dwt_cli.distill.teacher.imported import ImportedTeacher
from dwt_cli.distill.teacher.options import CheckpointTeacher, Teacher
from dwt_cli.distill.teacher.several import SeveralTeachers

# known to Hydra as ``/schema/<group>: <name>`` in a group file's defaults
for _group, _schemas in (*SCHEMAS.items(), ("chain", CHAINS)):
    for _name, _node in _schemas.items():
        ConfigStore.instance().store(group=f"schema/{_group}", name=_name, node=_node)

# ``${steps:LENGTH,SHARE}`` in a settings file: a share of a length, at least one step
OmegaConf.register_new_resolver(
    "steps", lambda length, share: max(1, round(length * share)), replace=True
)


_PLAIN = ("arm", "length", "seed", "stretch")  # values that stand beside the groups


@lru_cache(maxsize=256)
def _chosen(primary: str, words: tuple[str, ...]) -> DictConfig:
    return compose(primary, list(words), return_hydra_config=True)


@lru_cache(maxsize=4096)
def _parsed(word: str) -> Override:
    return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_override(word)


_last: list[object] = []


def _forget_others(*conditions: object) -> None:
    """Empty what was composed under other conditions than these, by this process's last command."""
    if _last != [*conditions]:
        _last[:] = conditions
        _parsed.cache_clear()
        _chosen.cache_clear()


def _composed(primary: str, words: list[str]) -> DictConfig:
    """Return what Hydra composes; `UserError` for a setting of a choice that was not made.

    Files are read and merged once for the same choices, as a study's runs have; values are then
    set as Hydra does.
    """
    parsed = [_parsed(word) for word in words]
    choices: list[Override] = []
    values: list[Override] = []
    for each in parsed:
        key = each.key_or_group
        is_value = "." in key or key in _PLAIN or isinstance(each.value(), dict)
        (values if is_value and not each.is_hydra_override() else choices).append(each)
    composed: DictConfig | None = None
    try:
        composed = deepcopy(_chosen(primary, tuple(str(each.input_line) for each in choices)))
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        own = [str(each.input_line) for each in parsed if not each.is_hydra_override()]
        composed.hydra.overrides.task = own
        return composed
    except AssertionError:  # omegaconf's, for a setting below a null
        chosen = {word.partition("=")[0] for word in words}
        for word in words:
            names = word.partition("=")[0].lstrip("+").split(".")
            for end in range(2, len(names)):
                group, place = names[end - 1], ".".join(names[:end])
                if group not in groups() or f"{group}@{place}" in chosen:
                    continue
                others = ", ".join(groups()[group])
                raise UserError(
                    f"{word}: nothing is chosen for {place}; set {group}@{place} to one of {others}"
                ) from None
        raise
    except (TypeError, ValueError):  # omegaconf's, for a setting below a list
        whole = composed or _chosen(primary, ())
        for word in words:
            names = word.partition("=")[0].lstrip("+~").split(".")
            for end in range(1, len(names)):
                place = ".".join(names[:end])
                if OmegaConf.is_list(OmegaConf.select(whole, place)):
                    raise UserError(
                        f"{word}: {place} is a list; write it whole, as in {place}=[a,b]"
                    ) from None
        raise


def register(root: type[Run] = Run) -> None:
    """Make it known to Hydra what a whole config is."""
    ConfigStore.instance().store(group="schema", name="run", node=root)


def runs_of(
    words: Sequence[str],
    root: type[Run] = Run,
    primary: str = "config",
    folder: str | None = None,
    is_multirun: bool = False,
) -> tuple[list[Run], bool]:
    """Return the runs that a command's words ask for, and whether they are those of a multirun.

    primary, root: the config that is composed, and its type. folder: one with configs beside
    ``conf/``. Raises `UserError`, and what Hydra and omegaconf raise.
    """
    register(root)
    primary = primary.removesuffix(".yaml")
    home, search = SETTINGS, []
    if folder:  # Hydra looks for the primary config in the first folder alone
        away = Path(folder).absolute()
        if (away / f"{primary}.yaml").is_file():
            home, away = away, home
        search = [f"hydra.searchpath=['file://{away}']"]
    theirs = any("hydra.searchpath" in word for word in words) or Path(folder or SWEEPS) != SWEEPS
    files = object() if theirs else state()  # what others have may be anywhere, and is read anew
    _forget_others(root.__name__, home, Path.cwd(), files)
    with initialize_config_dir(str(home), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides(list(words))
        swept = [each for each in overrides if each.is_sweep_override()]
        for each in swept:
            if not list(each.sweep_string_iterator()):
                raise UserError(f"{each.input_line}: there is no such value; give one at least")
        first = BasicSweeper.split_arguments(overrides, None)[0][0] if swept else words
        composed = _composed(primary, [*search, *first])
        if not is_multirun and composed.hydra.mode is not RunMode.MULTIRUN:
            for each in swept:
                word, key = str(each.input_line), each.get_key_element()
                whole = f", {key}=[{each.get_value_string()}] for all in one run"
                raise UserError(
                    f"{word}: several values are several runs; write dwt-train -m "
                    f"{shlex.quote(word)}{whole if key in SEVERAL else ''}, or choose one of them"
                )
            return [_run_of(composed, primary)], False
        axes = [f"{key}={values}" for key, values in (composed.hydra.sweeper.params or {}).items()]
        overrides = [*parser.parse_overrides(axes), *overrides]
        runs, one = [], DictConfig(OmegaConf.to_container(composed))  # its types are not held
        for values in BasicSweeper.split_arguments(overrides, None)[0]:
            likely: list[str] = []
            if "study" in one:
                own = [word for word in values if word.partition("=")[0] in _PLAIN]
                one.merge_with(OmegaConf.from_dotlist(own))
                likely = words_of_arm(one, values)
            runs.append(_run_of(_composed(primary, [*search, *values, *likely]), primary, likely))
        return runs, True


def _run_of(composed: DictConfig, primary: str, likely: Sequence[str] = ()) -> Run:
    """Return a composed config as a run that knows its words; of a study with those of its arm.

    likely: those of its arm with which it was composed.
    """
    arms, own = dict[str, str](), list[str]()
    hydras, words = composed.hydra.overrides.hydra, list(composed.hydra.overrides.task)
    if "study" in composed:
        # as their file has them, the seed not yet filled in
        arms = dict(OmegaConf.to_container(composed.study.arms, resolve=False))  # type: ignore[arg-type]
        own = words[: len(words) - len(likely)]
        words = [*own, *words_of_arm(composed, own)]
        if words != list(composed.hydra.overrides.task):
            composed = _composed(primary, [*hydras, *words])
    hydra, run = composed.hydra, typed(composed, primary, hydras)
    if opened := [*run.student.checkpoints(), *run.teacher.checkpoints()]:
        # nobody else pays for torch here
        from dwt_cli.models.checkpoint import longer_than_trained, sizes

        read = {f"{name}={each.path}": each.reads for name, each in opened}
        known = [(f"{name}={each.path}", *size) for name, each in opened if (size := sizes(each))]
        rows = known if run.shares_vocabulary else []
        if found := _words_of_models(rows, known, run.scale, words):
            composed = _composed(primary, [*hydras, *words, *found])
            hydra, run = composed.hydra, typed(composed, primary, hydras)
        run.found = [f"{word} is taken from {named}" for word, named in found.items()]
        for named, _, most, trained in known:
            length = min(read[named](run.data.block_length), most or run.data.block_length)
            run.found += longer_than_trained(named, trained, length)
    if run.of_study:
        run.of_study.study.arms, run.of_study.own = arms, own
    if isinstance(run, Chained):  # as the file has them: a stage has values of its own
        written: Any = OmegaConf.to_container(composed.chain, resolve=False)
        run.chain.words, run.chain.stages = written["words"], written["stages"]
    run.overrides = list(hydra.overrides.task)
    chosen = hydra.runtime.choices
    run.choices = {group: chosen[group] for group in groups() if chosen.get(group)}
    run.choices["objective"] = "+".join(run.objective)  # Hydra names none if there are several
    return run


_Known = Sequence[tuple[str, int, int | None, int | None]]


def _words_of_models(
    sharing: _Known, known: _Known, scale: Scale, words: Sequence[str]
) -> dict[str, str]:
    """Return the sizes that opened models have and the scale has not, each with who has it.

    sharing: those whose vocabulary is the text's. What was typed is left as it is: it is refused if
    it disagrees.
    """
    found = {}
    given = {word.partition("=")[0] for word in words}
    for named, vocab_size, *_ in sharing[:1]:
        if "scale.vocab_size" not in given and vocab_size != scale.vocab_size:
            found[f"scale.vocab_size={vocab_size}"] = named
    for length, named in sorted((most, named) for named, _, most, _ in known if most)[:1]:
        if "scale.block_length" not in given and length < scale.block_length:
            found[f"scale.block_length={length}"] = named
    return found


def typed(composed: DictConfig, primary: str = "config", search: Sequence[str] = ()) -> Run:
    """Return the composed config as plain objects, with interpolations and members resolved.

    primary, search: the name under which it was composed, and overrides that name other folders.
    Takes Hydra's own part out of it; raises omegaconf's exceptions for what is missing or of the
    wrong type.
    """
    with open_dict(composed):
        composed.pop("hydra", None)
        if "study" in composed:
            composed.study.arms, composed.study.words = {}, {}  # the others' are not for this run
    try:
        run = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        setting = re.sub(r"\[(\d+)\]", r".\1", min(OmegaConf.missing_keys(composed)))
        raise UserError(f"{setting} has no value: give one, as in {setting}=...") from error
    if not isinstance(run, Run):
        raise UserError(
            "--config-name: this is no whole run; begin it with `defaults: [config, _self_]`"
        )
    if isinstance(run.teacher, ImportedTeacher) and (rows := run.signal.imported):
        run.teacher.path, run.teacher.num_entries = rows.path, rows.num_entries
    if isinstance(run.teacher, SeveralTeachers):
        run.teacher.teachers = [
            _member(name, composed, primary, search) for name in run.teacher.members
        ]
    return run


def _member(name: str, composed: DictConfig, primary: str, search: Sequence[str]) -> Teacher:
    """Return the teacher that a name in teacher.members stands for, at the sizes of its run."""
    if "/" in name:
        return CheckpointTeacher(path=name)
    try:
        choice = deepcopy(_chosen(primary, (*search, f"teacher={name}")).teacher)
    except MissingConfigException as error:
        if Path(name).is_dir():
            return CheckpointTeacher(path=name)
        raise UserError(
            f"teacher.members: {name} is neither a choice of teacher nor a folder; choose one of "
            f"{', '.join(groups()['teacher'])}, or give a checkpoint's path or hub name"
        ) from error
    run = deepcopy(composed)
    run.teacher = choice
    for key in sorted(OmegaConf.missing_keys(run.teacher)):
        raise UserError(
            f"teacher.members: {name} has no {key}, and a member has no settings here; name a "
            "choice that is complete, or a checkpoint's path"
        )
    return typed(run).teacher


def words_of_arm(composed: DictConfig, own: Sequence[str]) -> list[str]:
    """Return the words of the arm that a study's composed config names.

    own: those of the command itself. Raises `UserError` for an arm that there is not, and
    where the command sets what the arm sets: all arms would be the same.
    """
    arms = composed.study.arms
    arm = "..." if OmegaConf.is_missing(composed, "arm") else composed.arm
    if arm not in arms:
        raise UserError(not_among(f"arm={arm}", "arm", arm, list(arms), prefix="arm="))
    words = words_in(f"study.arms.{arm}", arms[arm])
    theirs = {word.partition("=")[0]: word for word in own}
    for word in words:
        if (key := word.partition("=")[0]) in theirs and theirs[key] != word:
            raise UserError(
                f"{theirs[key]}: the arm {arm} sets {word}; leave it out, or write an arm "
                f"of your own: '+study.arms.mine=\"...\"' arm={arm},mine"
            )
    return words
