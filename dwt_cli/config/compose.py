"""From Hydra's composed config to a typed `Run`."""

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from dwt_cli.base.errors import UserError
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
    """The composed config as plain objects; interpolations and members are resolved here.

    search: overrides that say where else Hydra finds choices. Raises omegaconf's exceptions for a
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
    """What a name in teacher.members stands for, at the sizes of the run that it teaches in."""
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
