"""Turning Hydra's composed config into a typed `Run`."""

import re
import shlex
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.config.files import groups
from dwt_cli.config.run import SCHEMAS, Run
from dwt_cli.distill.teacher.options import CheckpointTeacher, SeveralTeachers, Teacher


def register(root: type[Run] = Run) -> None:
    """Make the classes known to Hydra: ``/schema/<group>: <name>`` in a group file's defaults.

    root: what a whole config is.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=root)
    for group, schemas in SCHEMAS.items():
        for name, node in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    OmegaConf.register_new_resolver("steps", _steps, replace=True)


def _steps(length: int, share: float) -> int:
    """``${steps:LENGTH,SHARE}`` in a settings file: a share of a length, at least one step."""
    return max(1, round(length * share))


def typed(composed: DictConfig, search: Sequence[str] = ()) -> Run:
    """Return the composed config as plain objects, with interpolations and members resolved.

    search: overrides that name other folders of choices. Raises omegaconf's exceptions for a
    value that is missing or of the wrong type.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        setting = re.sub(r"\[(\d+)\]", r".\1", missing[0])
        raise UserError(f"{setting} has no value: give one, as in {setting}=...")
    run = OmegaConf.to_object(composed)
    if not isinstance(run, Run):
        raise UserError(
            "--config-name: this is no whole run; begin it with `defaults: [config, _self_]`"
        )
    if isinstance(run.teacher, SeveralTeachers):
        run.teacher.teachers = [_member(name, composed, search) for name in run.teacher.members]
    return run


def _member(name: str, composed: DictConfig, search: Sequence[str]) -> Teacher:
    """Return the teacher that a name in teacher.members stands for, at the sizes of its run."""
    if "/" in name:
        return CheckpointTeacher(path=name)
    try:
        choice = compose("config", [*search, f"teacher={name}"]).teacher
    except MissingConfigException as error:
        if Path(name).is_dir():
            return CheckpointTeacher(path=name)
        raise UserError(
            f"teacher.members: {name} is neither a choice of teacher nor a folder; choose one of "
            f"{', '.join(groups()['teacher'])}, or give a checkpoint's path or hub name"
        ) from error
    for key in sorted(OmegaConf.missing_keys(choice)):
        raise UserError(
            f"teacher.members: {name} has no {key}, and a member has no settings here; name a "
            "choice that is complete, or a checkpoint's path"
        )
    run = deepcopy(composed)
    run.teacher = choice
    return typed(run).teacher


def words_of_arm(composed: DictConfig, own: Sequence[str]) -> list[str]:
    """Return the words of the arm that a study's composed config names.

    own: those of the command itself. Raises `UserError` for an arm that there is not, and
    where the command sets what the arm sets: all arms would be the same.
    """
    arms = composed.study.arms
    if OmegaConf.is_missing(composed, "arm") or composed.arm not in arms:
        arm = "..." if OmegaConf.is_missing(composed, "arm") else composed.arm
        raise UserError(not_among(f"arm={arm}", "arm", arm, list(arms), prefix="arm="))
    words = shlex.split(arms[composed.arm])
    theirs = {word.partition("=")[0]: word for word in own}
    for word in words:
        if (key := word.partition("=")[0]) in theirs and theirs[key] != word:
            raise UserError(
                f"{theirs[key]}: the arm {composed.arm} sets {word}; leave it out, or write an arm "
                f"of your own: '+study.arms.mine=\"...\"' arm={composed.arm},mine"
            )
    return words


def arms_as_written(composed: DictConfig) -> dict[str, str]:
    """Return every arm of a study as its file has it, the seed not yet filled in."""
    written = OmegaConf.to_container(composed.study.arms, resolve=False)
    assert isinstance(written, dict)
    return {str(arm): str(words) for arm, words in written.items()}
