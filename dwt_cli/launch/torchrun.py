"""Several processes for one run, by torch's own launcher (torch.distributed.run).

``python -m dwt_cli.launch.torchrun run.json`` starts those of one node of a job.
"""

import contextlib
import logging
import signal
import socket
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dwt_cli.base.errors import Told, UserError
from dwt_cli.base.interrupt import GRACE_S, Interrupted
from dwt_cli.base.ranks import SILENT
from dwt_cli.config import packing
from dwt_cli.config.launch import Torchrun
from dwt_cli.config.run import Run
from dwt_cli.launch.process import FAULT, carry_out

_ANSWER_S = 10


def launch(run: Run, options: Torchrun) -> None:
    """Start the ranks of this machine and wait for them.

    Raises `Told` when one of them has said what went wrong, `UserError` when none could.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if options.rdzv_endpoint:
        _check_meeting_place(options.rdzv_endpoint)
    with TemporaryDirectory(prefix="dwt-") as folder:
        file = Path(folder) / "run.json"
        file.write_text(packing.packed(run), encoding="utf-8")
        ranks = elastic_launch(_config(options, folder), sys.executable)
        try:
            ranks("-m", "dwt_cli.launch.rank", str(file))
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


def _config(options: Torchrun, folder: str) -> LaunchConfig:
    seconds = round(60 * options.max_wait_minutes)
    return LaunchConfig(
        min_nodes=options.nodes,
        max_nodes=options.nodes,
        nproc_per_node=options.gpus,
        run_id="dwt" if options.rdzv_endpoint else uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=options.rdzv_endpoint or "localhost:0",
        rdzv_configs={"timeout": seconds, "join_timeout": seconds},
        max_restarts=options.max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        # what else stops a run is heard by `dwt_cli.base.interrupt`, here and in the ranks
        signals_to_handle="SIGHUP",
        shutdown_timeout=GRACE_S,
    )


def _check_meeting_place(endpoint: str) -> None:
    """Raise `UserError` if something answers there that is not torch's: it would be waited for."""
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
    ended = (SILENT, 128 + signal.SIGTERM)  # because of another: the launcher sends SIGTERM then
    told = [code for code in codes.values() if code > 0 and code not in ended]
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGTERM and not told:  # SIGTERM ends those that are left
            return UserError(
                f"rank {rank} was killed by {signal.Signals(-code).name}, and the others have "
                "ended; the same command goes on from the last checkpoint"
            )
    if not told and options.nodes > 1:
        return _others_have_gone(options)
    return Told(max(told or codes.values(), default=FAULT))


def _others_have_gone(options: Torchrun) -> UserError:
    return UserError(
        f"launch.nodes={options.nodes}: a rank of another node has ended, and with it those of "
        "this one; what it said is there"
    )


def main() -> None:
    """Start this node's ranks of the run that is packed in a file."""

    def start(run: Run) -> None:
        assert isinstance(run.launch, Torchrun)
        launch(run, run.launch)

    carry_out(start)


if __name__ == "__main__":
    main()
