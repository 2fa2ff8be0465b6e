"""Several processes for one run, by torch's own launcher (torch.distributed.run)."""

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dwt_cli.base.errors import FAULT, Reported, UserError
from dwt_cli.base.interrupt import GRACE_S, Interrupted
from dwt_cli.base.machine import has_devices
from dwt_cli.base.ranks import SECONDARY_FAILURE
from dwt_cli.base.scratch import scratch
from dwt_cli.config.launch import Torchrun
from dwt_cli.launch.start import Begin

_ANSWER_S = 5


def start(packed: str, options: Torchrun, begin: Begin) -> None:
    """Start the ranks of this machine on a run that is packed, and wait for them.

    begin: starts a process. Raises `Reported` when one of them has reported an error,
    `UserError` when none could.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    has_devices(options.device, options.gpus if options.gpus * options.nodes > 1 else 0)
    if options.rdzv_endpoint:
        _check_rendezvous(options.rdzv_endpoint)
    with scratch() as folder:
        file = Path(folder) / "run.json"
        file.write_text(packed, encoding="utf-8")
        seconds = round(60 * options.max_wait_minutes)
        config = LaunchConfig(
            min_nodes=options.nodes,
            max_nodes=options.nodes,
            nproc_per_node=options.gpus,
            run_id="dwt" if options.rdzv_endpoint else uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=options.rdzv_endpoint or "localhost:0",
            rdzv_configs={"timeout": seconds, "join_timeout": seconds},
            max_restarts=options.max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            # the other signals are handled by `dwt_cli.base.interrupt`, here and in the ranks
            signals_to_handle="SIGHUP",
            shutdown_timeout=GRACE_S,
        )
        # torch has this function to be replaced: it starts a rank by the entrypoint's name
        api.get_subprocess_handler = partial(_begin, begin)  # type: ignore[assignment, attr-defined]
        try:
            elastic_launch(config, "rank")(str(file))
        except ChildFailedError as failed:
            codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
            raise _in_one_line(codes, options) from failed
        except RendezvousError as error:
            if any(Path(folder).rglob("attempt_*")):  # they had met: ranks were started
                raise _others_have_gone(options) from error
            raise UserError(
                f"launch.rdzv_endpoint={options.rdzv_endpoint}: {options.nodes} nodes have not met "
                f"there ({type(error).__name__}); give the HOST:PORT of one of them, free "
                "there and reachable from all"
            ) from error
        except SignalException as stop:
            raise Interrupted(number=stop.sigval) from stop


def _begin(
    begin: Begin, entrypoint: str, args: Sequence[str], env: Mapping[str, str], **other: object
) -> SimpleNamespace:
    """Return a rank at work, in the form that torch wants."""
    process = begin(entrypoint, Path(args[0]), {**os.environ, **env}, None)
    return SimpleNamespace(proc=process, close=lambda death_sig: os.killpg(process.pid, death_sig))


def _check_rendezvous(endpoint: str) -> None:
    """Raise `UserError` if something other than torch listens there: it would be waited for."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError:
        return  # nobody is there yet

    def ask() -> None:
        with contextlib.suppress(DistError):
            limit = timedelta(seconds=_ANSWER_S)
            TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=limit)
            answers.append(True)

    answers: list[bool] = []
    asking = threading.Thread(target=ask, daemon=True)  # its handshake has no time limit
    asking.start()
    asking.join(2 * _ANSWER_S)
    if not answers:
        raise UserError(
            f"launch.rdzv_endpoint={endpoint}: something else listens there; set "
            "launch.rdzv_endpoint=HOST:PORT with a free port"
        )


def _in_one_line(codes: dict[int, int], options: Torchrun) -> Exception:
    # others end because of one: by themselves, or by the launcher's SIGTERM
    ended = (SECONDARY_FAILURE, 128 + signal.SIGTERM)
    reported = [code for code in codes.values() if code > 0 and code not in ended]
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGTERM and not reported:  # SIGTERM ends the rest
            return UserError(
                f"rank {rank} was killed by {signal.Signals(-code).name}, and the others have "
                "ended; the same command goes on from the last checkpoint"
            )
    if not reported and options.nodes > 1:
        return _others_have_gone(options)
    return Reported(max(reported or codes.values(), default=FAULT))


def _others_have_gone(options: Torchrun) -> UserError:
    return UserError(
        f"launch.nodes={options.nodes}: a rank of another node has ended, and with it those of "
        "this one; its message is there"
    )
