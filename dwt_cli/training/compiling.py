"""Compiled layers: whether they pay, decided once for a run or a study, and where code is kept.

Compiled code is loaded into the process. So it is kept in the user's own cache folder alone, which
nobody else may write; what is loaded is a private copy that is what its manifest says. The headers
that the compiler reads lie there too, beside the code, without a manifest.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch

from dwt_cli.base import atomic, locks
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine, cpu
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.base.scratch import scratch
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.protocols import Numbers, Observer

DECISION = "compile.json"
NUM_PLAIN = 5
"""Steps that are timed before it is decided."""

COSTS = {"cpu": (1.4, 40.0, 3.0)}
"""The time of a plain step over a compiled one's, the seconds that compiling takes, and those that
loading it takes, by kind of device, as measured at nano's sizes (benchmarks/README.md)."""


class Decision(NamedTuple):
    """Whether layers are compiled, and why."""

    compiled: bool
    why: str


def write_down(decision: Mapping[str, Any], file: Path, say: Callable[[str], None]) -> None:
    """Write what is decided for a run, and say it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(file, decision)
    say(f"compile: {decision['why']}")


def decide(
    step_s: float, num_steps: int, device: str, is_warm: bool, num_runs: int = 1
) -> Decision:
    """Return whether compiling pays for ``num_runs`` runs with so many plain steps left each."""
    if device not in COSTS:
        return Decision(False, f"off: it was never timed on {device}; train.compile=true compiles")
    gain, cold_s, warm_s = COSTS[device]
    saved_s = num_runs * num_steps * step_s * (1 - 1 / gain)
    cost_s = num_runs * warm_s + (0 if is_warm else cold_s)
    pays, runs = saved_s > cost_s, f" in each of {num_runs} runs" if num_runs > 1 else ""
    return Decision(
        pays,
        f"{'on' if pays else 'off'}: {num_steps:,} steps left at {step_s:.2f} s{runs}, "
        f"saves about {saved_s:.0f} s, costs about {cost_s:.0f} s",
    )


class KeptCode(AbstractContextManager["KeptCode"]):
    """Compiled code for one machine, one set of versions, and the shapes of one training.

    While it is open torch compiles into a private copy of it. about: what it is for. say: prints a
    line. root: the folder of all such code; None: below the user's cache folder.
    """

    def __init__(
        self, about: Mapping[str, Any], say: Callable[[str], None], root: Path | None = None
    ) -> None:
        self._root = root or platformdirs.user_cache_path("dwt") / "compiled"
        self._place, self._about = self._root / fingerprint(about), about
        self._say, self._open = say, ExitStack()
        self._loaded: set[str] = set()

    @classmethod
    def of(
        cls, model: Wrapper, machine: Machine, say: Callable[[str], None], **shapes: Any
    ) -> "KeptCode":
        """Return a model's code on this machine, for these shapes."""
        about = machine.describe() | {
            "commit": None,  # torch knows its code by content
            "cpu": cpu(),
            "model": model.model.config.to_json_string(),
        }
        return cls(about | shapes, say)

    @property
    def is_warm(self) -> bool:
        """Whether there is code to be loaded."""
        return atomic.is_sealed(self._place)

    def __enter__(self) -> "KeptCode":
        import torch._dynamo
        from torch._inductor import codecache, config
        from torch._inductor.async_compile import shutdown_compile_workers
        from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

        with ExitStack() as stack:
            self._copy = Path(stack.enter_context(scratch()))
            self._is_kept = self._made_safe()
            if self._is_kept and self.is_warm:
                self._load()
            place = self._root if self._is_kept else self._copy
            headers = place / "headers" / fingerprint(cpu())
            stack.callback(codecache._precompile_header.cache_clear)
            # torch's are where others may write
            for name, folder in (("_HEADER_DIR", headers), ("_HEADER_LOCK_DIR", headers / "locks")):
                stack.callback(setattr, codecache, name, getattr(codecache, name))
                setattr(codecache, name, str(folder))
            codecache._precompile_header.cache_clear()
            num_threads = 1 if self._loaded else torch.get_num_threads()
            # dropout draws what it draws in a plain layer
            settings = config.patch(compile_threads=num_threads, fallback_random=True)
            stack.enter_context(settings)
            torch._dynamo.reset()  # another training's code is in another copy
            stack.enter_context(temporary_cache_dir(str(self._copy)))
            stack.callback(shutdown_compile_workers)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def keep(self) -> None:
        """Keep what is compiled by now, unless all of it was loaded."""
        if not self._is_kept or _files(self._copy) <= self._loaded:
            return
        aside = self._place.with_name(f".{self._place.name}.{os.getpid()}")
        with contextlib.suppress(OSError), self._turn():  # what is not kept is compiled again
            shutil.copytree(self._copy, aside, ignore=shutil.ignore_patterns(*_PASSING))
            atomic.write_json(aside / "about.json", {"options": self._about})
            atomic.publish(aside, self._place)
        shutil.rmtree(aside, ignore_errors=True)

    def _load(self) -> None:
        try:
            _check_is_own(self._place)
            with self._turn():
                shutil.copytree(self._place, self._copy, dirs_exist_ok=True)
                os.utime(self._place)  # when it was last used
            atomic.verify(self._copy)
            self._loaded = {*(atomic.read_json(self._copy / atomic.MANIFEST) or {})}
            for name in _files(self._copy) - self._loaded:
                raise atomic.Damaged(f"{self._place} has {name}, which is not in its manifest")
        except (OSError, atomic.Damaged) as problem:
            self._say(f"warning: compiled again, since {problem}")
            self._loaded = set()
            for path in self._copy.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _made_safe(self) -> bool:
        """Return whether the folder is this user's alone; it is made where it is missing."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_is_own(self._root)
        except OSError as problem:
            self._say(f"warning: compiled code is neither loaded nor kept: {problem}")
            return False
        return True

    def _turn(self) -> AbstractContextManager[Any]:
        return locks.take(self._place.with_name(f"{self._place.name}.lock"), timeout_s=-1)


_PASSING = ("*.lock", "locks", "headers", atomic.MANIFEST)


def _files(folder: Path) -> set[str]:
    """Return what is kept of a folder, by relative paths."""
    every = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {
        path.as_posix()
        for path in every
        if not any(fnmatch(part, name) for part in path.parts for name in _PASSING)
    }


def _check_is_own(folder: Path) -> None:
    """Raise PermissionError for what is not a folder that this user owns and alone may write."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder that you alone may write")


@dataclass
class Compiling(Observer, AbstractContextManager["Compiling"]):
    """An observer that compiles what trains: from the first step (always), or if that pays.

    compile: compiles the model, and its loss. file: the decision of this run. shared: of its study,
    the same for all its runs; at first it has their number. tokens_per_step: of all ranks, each of
    which has such an observer.
    """

    model: Wrapper
    code: KeptCode
    compile: Callable[[], None]
    always: bool
    device: str
    tokens_per_step: int
    file: Path
    shared: Path | None
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    _open: ExitStack = field(default_factory=ExitStack)
    _seconds: list[float] = field(default_factory=list)
    _is_decided: bool = False
    _is_new: bool = True

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def resumed(self, step: int) -> None:
        if self.model.is_compiled:  # as in its checkpoint
            return
        if self.always:
            self.begin()
        elif step >= NUM_PLAIN:
            known = self.ranks.from_first("what was decided on compiling", self._known)
            self._is_decided = known is not None
            if known and known["compiled"]:
                self.begin()

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        if self.model.is_compiled:
            if self._is_new and self.ranks.is_first:
                self.code.keep()  # a forward and a backward pass have run
            self._is_new = False
        elif not self._is_decided and progress < 1:
            self._seconds.append(self.tokens_per_step / metrics["tokens_per_s"])
            if step == NUM_PLAIN or len(self._seconds) == NUM_PLAIN:
                self._is_decided = True
                left = round(step * (1 - progress) / progress)
                if self.ranks.from_first("whether to compile", lambda: self._decide(left)):
                    self.begin()

    def begin(self) -> None:
        """Compile what trains from here on."""
        self._open.enter_context(self.code)
        # a compiler that fails leaves a layer as it is, unless it was asked for
        settings = torch._dynamo.config.patch(suppress_errors=not self.always)
        self._open.enter_context(settings)
        self.compile()

    def _known(self) -> dict[str, Any] | None:
        """Return what is decided, for the study or for this run."""
        found = [atomic.read_json(file) for file in (self.shared, self.file) if file]
        return next((each for each in found if each and "compiled" in each), None)

    def _decide(self, num_steps: int) -> bool:
        turn = self.shared and locks.take(self.shared.with_suffix(".lock"), timeout_s=-1)
        with turn or contextlib.nullcontext():
            known = self._known()
            if known is None:
                asked = (atomic.read_json(self.shared) if self.shared else None) or {}
                of_study = asked.get("num_runs", 1)
                is_warm = self.code.is_warm
                decision = decide(min(self._seconds), num_steps, self.device, is_warm, of_study)
                if self.device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
                    decision = Decision(False, "off: there is no C++ compiler")
                known = asked | decision._asdict()
                if self.shared:
                    atomic.write_json(self.shared, known)
        write_down(known, self.file, self.say)
        return bool(known["compiled"])
