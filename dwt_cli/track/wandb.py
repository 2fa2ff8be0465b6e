"""Weights & Biases, kept at arm's length: a run is sent there, and can never be hurt from there.

Every call into W&B is made by one daemon thread, in order, and the training thread waits for that
thread only where it must and never for longer than a stated time. So Ctrl-C never lands inside
W&B, W&B can install no signal handler, and a call that hangs costs a bounded wait, after which
W&B's own process is ended and the run goes on without it.

A run is online if a key is set and the server answers, and offline otherwise; offline pieces stay
below the run's folder until the command given by `WandbTracker.sync_command` sends them.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import http.client
import os
import queue
import re
import shlex
import shutil
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

FINISH_S = 10.0
"""Seconds that `WandbTracker.finish` gives W&B to send what is left, models apart."""

MODEL_BYTES_PER_S = 10e6
"""Slowest upload that is waited for: `finish` waits a further second per 10 MB of model."""

_STEP = "step"
_SERVICE_S = 20.0  # for W&B's own local process, with no network involved
_FIGURE_S = 10.0
_TEARDOWN_S = 3.0
_MOST_PENDING = 10_000  # calls; W&B handles thousands a second, so this many means that it is stuck
_UNSENT = ".unsent"  # marks an online piece of which something may not have reached the server

_T = TypeVar("_T")


class WandbTracker:
    """One W&B run. Made by `start`; no method raises because of W&B.

    What goes wrong is told once, through `say`, from the thread that uses the tracker.
    """

    run_id: str
    """The id at W&B: the one asked for, less the characters that W&B does not take."""

    def __init__(self, directory: Path, run_id: str, say: Callable[[str], None]) -> None:
        """A tracker that records nothing; `start` is what connects it to W&B."""
        self.run_id = _safe_id(run_id)
        self._folder = Path(directory).absolute() / "wandb"
        self._say = say
        self._caller = _Caller()
        self._run: Any = None  # the W&B run, or None where nothing is recorded
        self._service: Any = None  # W&B's handle on its own process
        self._earlier: list[Path] = []
        self._piece: Path | None = None  # the folder of this session's part of the run
        self._online = False
        self._failure: str | None = None  # set by the W&B thread, told by the training thread
        self._stop_asked = False
        self._told: set[str] = set()
        self._step = 0
        self._models: list[Any] = []
        self._model_bytes = 0
        self._secrets = [os.environ.get("WANDB_API_KEY", "")]
        self._environment: dict[str, str | None] = {}
        self._pid = os.getpid()

    @classmethod
    def start(
        cls,
        directory: Path,
        project: str,
        entity: str | None,
        group: str | None,
        tags: Sequence[str],
        run_name: str,
        run_id: str,
        config: dict[str, Any],
        start_timeout_s: float = 5.0,
        *,
        say: Callable[[str], None],
    ) -> WandbTracker:
        """Start the run called `run_id`, or continue it if W&B already has it.

        All files go below `directory`/wandb. WANDB_MODE (online, offline, disabled) is respected.
        A server that cannot be used delays the start by `start_timeout_s` seconds at most; the
        run is then recorded offline or, where W&B cannot even write its files, not at all.
        """
        tracker = cls(directory, run_id, say)
        if os.environ.get("WANDB_MODE", "").strip().lower() == "disabled":
            return tracker
        identity = {
            "project": re.sub(r"[/\\#?%:]", "-", project)[:128],
            "entity": entity,
            "group": group[:128] if group else None,
            "tags": [tag[:64] for tag in tags if tag],
            "name": run_name[:128],
            "config": config,
        }
        try:
            _check_writable(tracker._folder)
            tracker._earlier = tracker._pieces()
            tracker._set_environment()
            tracker._open(identity, start_timeout_s)
        except Exception as error:
            tracker._tell(f"W&B: nothing is recorded ({tracker._plain(error)}); training goes on.")
            tracker._abandon()
            tracker._drop_new_pieces()
        except KeyboardInterrupt:
            tracker._abandon()
            raise
        else:
            # Last, and so called before W&B's own exit hook, which waits without a limit.
            atexit.register(tracker._at_exit)
        return tracker

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record `metrics` at `step`, without waiting for W&B.

        The step is a metric of its own that W&B draws the others against: W&B's own count must
        only grow, so it drops or renumbers the steps that a resumed run takes a second time.
        """
        self._step = step
        row = {**metrics, _STEP: step}
        self._send(lambda: self._run.log(row))

    def figure(self, name: str, path: Path) -> None:
        """Record the PNG at `path`, at the step last logged. The file may change afterwards."""
        self._media(name, lambda wandb: wandb.Image(str(path)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table, at the step last logged."""
        self._media(name, lambda wandb: wandb.Table(list(columns), [list(row) for row in rows]))

    def _media(self, name: str, make: Callable[[Any], Any]) -> None:
        """Record what `make` makes of the wandb module, and wait until it is on the disk."""

        def send() -> None:
            import wandb

            self._run.log({name: make(wandb), _STEP: step})

        step = self._step
        sent = self._send(send)
        if sent is not None:
            with contextlib.suppress(Exception):
                sent.result(timeout=_FIGURE_S)
            self._tell_news()

    def model(self, path: Path, name: str) -> None:
        """Record the folder at `path` as a model artifact, without waiting for W&B.

        The files are not copied: they must stay as they are until they are uploaded, which is at
        the end of `finish` for an online run, and after the sync command for an offline one.
        """
        folder = Path(path).absolute()

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:128], type="model")
            artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
            self._models.append(self._run.log_artifact(artifact))

        if self._send(send) is not None:
            with contextlib.suppress(OSError):
                self._model_bytes += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Record `summary`, send what is left and leave nothing of W&B behind in this process.

        An `exit_code` other than 0 shows the run as failed. Takes `FINISH_S` seconds and a few
        more at most, and longer only while a model uploads to a server that answers (see
        `MODEL_BYTES_PER_S`).
        """
        self._tell_news()
        if self._run is None:
            self._abandon()
            return
        run = self._run
        model_s = self._model_bytes / MODEL_BYTES_PER_S
        values = dict(summary)
        try:
            self._send(lambda: run.summary.update(values))
            # What was logged is on its way to W&B's process once an empty call has had its turn.
            self._caller.call(lambda: None, FINISH_S + model_s)
            if self._online:
                self._wait_for_models(model_s)
            # W&B keeps to the same limit by itself; it then has its files in order.
            self._caller.call(lambda: run.finish(exit_code=exit_code), FINISH_S + 2.0)
            if not self._online:
                self._check_recorded()
            elif self._failure is None and self._piece is not None:
                (self._piece / _UNSENT).unlink(missing_ok=True)
        except Exception as error:
            self._fail(error)
        except KeyboardInterrupt:
            self._abandon()
            raise
        self._tell_news()
        self._close()

    def sync_command(self) -> str | None:
        """The command that sends all of this run that is only on disk, or None if nothing is."""
        waiting = [piece for piece in self._pieces() if not any(piece.glob("*.wandb.synced"))]
        offline = [piece for piece in waiting if piece.name.startswith("offline-")]
        online = [p for p in waiting if (p / _UNSENT).exists()]
        if self._run is not None and self._failure is None and self._piece in online:
            online.remove(self._piece)  # being sent as we speak
        folder = shlex.quote(str(self._folder))
        words = [shlex.quote(str(piece)) for piece in online]
        if online:
            words.insert(0, "--include-online")
        if offline:
            # The pattern also covers the pieces that later resumptions add.
            words.append(f"{folder}/offline-run-*-{self.run_id}*")
        return " ".join(["wandb sync", *words]) if words else None

    # ---- starting

    def _open(self, identity: dict[str, Any], start_timeout_s: float) -> None:
        """Open the run, online if possible. Raises if it cannot even be recorded offline."""
        with _program_hooks_kept():
            import wandb  # here, because it takes half a second

            settings = self._caller.call(lambda: self._set_up(wandb), _SERVICE_S)
            if settings._noop:
                self._close()
                return
            problem = None
            if not settings._offline:
                problem = self._open_online(wandb, settings, identity, start_timeout_s)
            if self._run is None:
                self._run = self._caller.call(
                    lambda: self._init(wandb, identity, "offline", _SERVICE_S), _SERVICE_S
                )
            self._piece = Path(self._run.settings.sync_dir)
        if self._online:
            (self._piece / _UNSENT).touch()
        if problem:
            self._tell(f"W&B: {problem}, so the run is recorded offline. {self._how_to_send()}")

    def _open_online(
        self, wandb: Any, settings: Any, identity: dict[str, Any], start_timeout_s: float
    ) -> str | None:
        """Open the run online and return None, or return what keeps it from being online."""
        deadline = time.monotonic() + start_timeout_s
        try:
            if not self._find_key(settings):
                return "no key is set"
        except Exception as error:
            return f"the key cannot be used ({self._plain(error)})"
        if not (settings.http_proxy or settings.https_proxy):  # the probe knows neither
            problem = _server_problem(settings.base_url, start_timeout_s / 2)
            if problem:
                return problem
        left = max(deadline - time.monotonic() - 0.5, 0.5)  # so that W&B's own limit comes first
        try:
            self._run = self._caller.call(
                lambda: self._init(wandb, identity, "online", left), left + 0.5
            )
            self._online = True
            return None
        except Exception as error:
            # A fresh W&B process and thread, since the old ones may be stuck on the failed start.
            _end_service(self._service)
            self._caller.end()
            self._caller = _Caller()
            self._caller.call(lambda: self._set_up(wandb), _SERVICE_S)
            self._drop_new_pieces()
            return f"{_host(settings.base_url)} did not take the run ({self._plain(error)})"

    def _set_up(self, wandb: Any) -> Any:
        """Start W&B's process, silently; the settings that the user's own files and shell give."""
        self._service = wandb.setup(wandb.Settings(silent=True, x_service_wait=_SERVICE_S))
        return self._service.settings

    def _init(self, wandb: Any, identity: dict[str, Any], mode: str, seconds: float) -> Any:
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=seconds,
            finish_timeout=FINISH_S,
            finish_timeout_raises=True,
            stop_fn=lambda: self._stop_was_asked(),  # W&B copies settings, and so a bound method
            use_dot_wandb=False,
            # No code, repository or paths of this machine; system statistics stay.
            save_code=False,
            disable_code=True,
            disable_git=True,
            label_disable=True,
            x_disable_meta=True,
            program="dwt-train",
        )
        run = wandb.init(
            dir=str(self._folder.parent),
            id=self.run_id,
            resume="allow",
            mode=mode,
            reinit="create_new",
            settings=settings,
            **identity,
        )
        run.define_metric(_STEP, hidden=True)
        run.define_metric("*", step_metric=_STEP)
        return run

    def _find_key(self, settings: Any) -> bool:
        """Whether W&B has credentials: from the environment, netrc or its settings file."""
        from wandb.sdk.lib import wbauth

        key = self._caller.call(
            lambda: wbauth.authenticate_session(
                host=settings.base_url, source="dwt-train", prompt=False
            ),
            _SERVICE_S,
        )
        self._secrets.append(getattr(key, "api_key", ""))
        return key is not None

    def _set_environment(self) -> None:
        """Keep W&B's caches below the folder and its crash reports at home, until `_close`."""
        values = {
            "WANDB_CACHE_DIR": str(self._folder / "cache"),
            "WANDB_DATA_DIR": str(self._folder / "data"),
            "WANDB_ERROR_REPORTING": "false",
        }
        for name, value in values.items():
            self._environment[name] = os.environ.get(name)
            os.environ.setdefault(name, value)

    # ---- sending

    def _send(self, job: Callable[[], None]) -> Future[None] | None:
        """Have the W&B thread do `job`; None if nothing is recorded (any more)."""
        self._tell_news()
        if self._run is None or self._failure is not None:
            return None

        def guarded() -> None:
            if self._failure is None:
                try:
                    job()
                except Exception as error:
                    self._fail(error)

        if self._caller.pending() > _MOST_PENDING:
            self._fail(TimeoutError("W&B's process does not keep up"))
            self._tell_news()
            return None
        return self._caller.submit(guarded)

    def _wait_for_models(self, seconds: float) -> None:
        """Wait until the models are at the server, or until one is refused or out of time."""
        deadline = time.monotonic() + seconds
        for artifact in self._models:
            uploaded = self._caller.submit(artifact.wait)
            while not wait([uploaded], timeout=2.0).done and self._failure is None:
                if time.monotonic() > deadline:
                    self._fail(TimeoutError("the model takes too long to upload"))
                elif problem := _server_problem(self._run.settings.base_url, 3.0):
                    self._fail(ConnectionError(problem))
            if not uploaded.done():
                self._caller.end()
                self._caller = _Caller()  # the old one waits for the upload, and would for ever
                return
            error = uploaded.exception()
            if error is not None:
                self._fail(error)

    def _stop_was_asked(self) -> None:
        """Called by W&B where it would send the process SIGINT: stop pressed on the web page."""
        self._stop_asked = True

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = self._plain(error)

    # ---- telling

    def _tell_news(self) -> None:
        """Tell what the W&B thread found out since the last call."""
        if self._stop_asked:
            self._tell("W&B: stop was pressed on the web page; here, Ctrl-C stops the run.")
        if self._failure is not None:
            self._tell(
                f"W&B: not everything is sent or recorded ({self._failure}). {self._how_to_send()}"
            )

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._say(message)

    def _how_to_send(self) -> str:
        command = self.sync_command()
        return f"To send what is on disk: {command}" if command else "Training goes on."

    def _plain(self, error: BaseException) -> str:
        """The error in one line, with no key in it."""
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        else:
            text = str(error).strip().partition("\n")[0] or type(error).__name__
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text[:300]

    # ---- ending

    def _pieces(self) -> list[Path]:
        """The folders of this run: one per session, all with the one id."""
        name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(self.run_id)}(-\d+)?")
        return sorted(p for p in self._folder.glob("*run-*") if name.fullmatch(p.name))

    def _drop_new_pieces(self) -> None:
        """Remove what a failed start left, which is nothing but W&B's own log files."""
        for piece in set(self._pieces()) - set(self._earlier):
            shutil.rmtree(piece, ignore_errors=True)

    def _check_recorded(self) -> None:
        """Raises OSError if W&B could not write all of this piece: it says so in its log alone."""
        _check_writable(self._folder)
        assert self._piece is not None
        log = (self._piece / "logs" / "debug-internal.log").read_text(errors="replace")
        if "failed to save record" in log:
            raise OSError(errno.EIO, "writing failed along the way", str(self._piece))

    def _close(self) -> None:
        """End W&B's process in good order, or in any case."""
        import wandb

        with contextlib.suppress(Exception):
            self._caller.call(wandb.teardown, _TEARDOWN_S)
        self._abandon()

    def _abandon(self) -> None:
        """Leave W&B at once; a process of its own that is still there is ended."""
        self._run = None
        atexit.unregister(self._at_exit)
        _end_service(self._service)
        self._caller.end()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
        self._environment = {}

    def _at_exit(self) -> None:
        """Finish a run that the program left open."""
        if os.getpid() == self._pid:
            self.finish({}, exit_code=1)


class _Caller:
    """One daemon thread that makes calls in order, and that others need not wait for."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], _T]) -> Future[_T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wandb-calls", daemon=True)
            self._thread.start()
        future: Future[_T] = Future()
        self._jobs.put((job, future))
        return future

    def call(self, job: Callable[[], _T], seconds: float) -> _T:
        """What `job` returns; raises what it raises, and TimeoutError after `seconds`."""
        future = self.submit(job)
        try:
            return future.result(timeout=max(seconds, 0.0))
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(f"no answer from W&B's process within {seconds:.0f} s") from None

    def pending(self) -> int:
        return self._jobs.qsize()

    def end(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # W&B calls sys.exit when its process ends badly
                future.set_exception(RuntimeError(f"W&B's process ended ({error!r})"))


def _safe_id(run_id: str) -> str:
    """`run_id` as W&B and a shell take it; one that is too long keeps its identity in a hash."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id).strip("-.") or "run"
    if len(clean) > 100:
        clean = f"{clean[:88]}-{hashlib.sha256(clean.encode()).hexdigest()[:11]}"
    return clean


def _check_writable(folder: Path) -> None:
    """Raises OSError if files cannot be written in `folder`.

    W&B itself would go to the temporary folder instead, where nobody would look for the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(65536))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _host(base_url: str) -> str:
    return urllib.parse.urlsplit(base_url).hostname or base_url


def _server_problem(base_url: str, seconds: float) -> str | None:
    """Why the server cannot be used, or None if it answers or if that is for W&B to find out."""
    answers: list[str | None] = []
    host = _host(base_url)

    def ask() -> None:
        request = urllib.request.Request(
            f"{base_url}/graphql",
            data=b'{"query": "{__typename}"}',
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answers.append(None)
        except urllib.error.HTTPError as error:
            answers.append(f"{host} answers {error.code}" if error.code >= 500 else None)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                answers.append(None)  # W&B may know certificates that Python does not
            elif not isinstance(error.reason, TimeoutError):
                answers.append(f"{host} cannot be reached ({error.reason})")
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException, ValueError):
            answers.append(None)

    # In a thread, because looking up a name takes no timeout.
    thread = threading.Thread(target=ask, name="wandb-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"{host} does not answer"


@contextlib.contextmanager
def _program_hooks_kept() -> Iterator[None]:
    """Put back sys.exit and sys.excepthook, which W&B replaces to learn the exit code."""
    leave, complain = sys.exit, sys.excepthook
    try:
        yield
    finally:
        sys.exit, sys.excepthook = leave, complain


def _end_service(service: Any) -> None:
    """End W&B's own process: whatever waits for it, here or at exit, then returns at once.

    W&B has no public call for this, hence its private names; if they change, W&B's own time
    limits remain.
    """
    if service is None:
        return
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth
        from wandb.sdk.lib.service import service_token

        if wandb_setup._singleton is service:
            wandb_setup._singleton = None
            wbauth.unauthenticate_session(update_settings=False)
        connection = service._connection
        if connection is None or connection._proc is None:
            return  # never started, or started by another process, which then owns it
        service_token.clear_service_in_env()
        connection._cleanup()  # takes back W&B's exit hook
        process = connection._proc._process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so its helpers go with it
            process.wait(timeout=5)
