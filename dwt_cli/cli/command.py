"""A command: compose its words, check what they ask for, hand over to launch. Imports no torch."""

import os
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dwt_cli.base import interrupt
from dwt_cli.base.errors import MISTAKE, Reported
from dwt_cli.cli import overrides
from dwt_cli.config import check, explain
from dwt_cli.config.compose import arms_as_written, register, typed, words_of_arm
from dwt_cli.config.files import groups, settings_folder
from dwt_cli.config.launch import Basic
from dwt_cli.config.run import EVAL_SETTINGS, GROUPS_AND_SETTINGS, Evaluation, Run, Study
from dwt_cli.launch.dispatch import start, start_all


def train(arguments: list[str]) -> int:
    """Carry out what ``dwt-train`` is asked for; returns the exit code."""
    return Command("dwt-train", "config", Run, GROUPS_AND_SETTINGS).run(arguments)


def evaluate(arguments: list[str]) -> int:
    """Carry out what ``dwt-eval`` is asked for; returns the exit code."""
    return Command("dwt-eval", "evaluate", Evaluation, EVAL_SETTINGS).run(arguments)


class Command:
    """One start of a program. Hydra calls `carry_out` with each composed config.

    name: the program's. primary, root: the config that it composes, and that one's type. known: the
    first words of its settings. code: the exit code; Hydra gives a job no way to fail without a
    traceback.
    """

    def __init__(self, name: str, primary: str, root: type[Run], known: Sequence[str]) -> None:
        self._name, self._primary, self._root, self._known = name, primary, root, known
        self._trains = root is not Evaluation
        self._runs: list[Run] = []  # of a multirun: all are composed and checked before one begins
        self._warned: set[str] = set()
        self.code = 0

    def run(self, arguments: list[str]) -> int:
        """Carry out what the arguments ask for; returns the exit code."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors arrive here, not as Hydra's traceback
        try:
            words = overrides.read(arguments, self._primary, self._known)
            register(Study if words.is_study else self._root)
            compose_all = hydra.main(str(settings_folder()), self._primary, version_base="1.3")(
                self.carry_out
            )
            with interrupt.stoppable():
                with TemporaryDirectory(prefix="dwt-") as folder:  # Hydra's record of a multirun
                    sys.argv[1:] = [f"hydra.sweep.dir={folder}", *words.arguments]
                    compose_all()
                if self._runs and not self.code:
                    self.code = start_all(self._runs, words.options.config_name, arguments)
        except KeyboardInterrupt as stop:
            self.code = interrupt.report(stop, self._name, arguments)
        except Exception as error:
            self._report(error)
        return self.code

    def carry_out(self, composed: DictConfig) -> None:
        """Check a composed config and start its run; of a multirun it is kept for later."""
        if self._trains and self.code:
            return  # of a multirun with a mistake nothing is begun
        try:
            run = self._checked(composed)
            is_multirun = HydraConfig.get().mode is RunMode.MULTIRUN
            if is_multirun and self._trains and run.run.mode.trains:
                self._runs.append(run)
            else:
                if not is_multirun and run.jobs != Basic():
                    print("warning: jobs has no effect on a single run", file=sys.stderr)
                start(run)
        except Reported as error:
            self.code = self.code or error.code
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        line = explain.answer(error)
        if line is None:
            raise error
        line = line.replace("dwt-train", self._name)  # the checks are shared
        print(f"{self._name}: {line}", file=sys.stderr, flush=True)
        self.code = self.code or MISTAKE

    def _checked(self, composed: DictConfig) -> Run:
        job = HydraConfig.get()
        words = list(job.overrides.task)
        choices = dict(job.runtime.choices)
        if "study" in composed:
            of_arm = words_of_arm(composed, words)
            run = typed(compose(job.job.config_name, [*words, *of_arm]))
            assert run.of_study is not None
            run.of_study.study.arms = arms_as_written(composed)
            words += of_arm
            choices |= dict(word.split("=", 1) for word in of_arm)
        else:
            run = typed(composed)
        run.choices = {group: choices[group] for group in groups() if choices.get(group)}
        run.choices["objective"] = "+".join(run.objective)  # Hydra names none if there are several
        run.overrides = words
        check.check(run)
        check.check_folders(run.run)
        for warning in check.warnings(run):
            if warning not in self._warned:
                self._warned.add(warning)
                print(f"warning: {warning}", file=sys.stderr)
        return run
