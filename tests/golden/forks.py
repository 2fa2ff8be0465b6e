"""Commands carried out in forks of one process that has torch loaded: saves each ten seconds.

A script of its own, given to the interpreter of a tree (on PYTHONPATH) with a JSON file of
{name: arguments}; it knows of the package that ``python -m dwt_cli.cli`` trains, and no more. What
a command prints goes to ``<name>.log`` beside the file, its exit code to stdout.
"""

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
from hydra import compose  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForMaskedLM,
    BertForMaskedLM,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

_AT_A_TIME = 2


def _begin(arguments: list[str], log: Path) -> int:
    """Fork a process that carries a command out; return its id."""
    if pid := os.fork():
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["dwt-train", *arguments]
    code = 1
    try:
        runpy.run_module("dwt_cli.cli", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(tree: Path, file: Path) -> None:
    """Carry out all commands, several at a time, and print ``{name: exit code}``."""
    spec = importlib.util.find_spec("dwt_cli")
    assert spec and spec.origin and Path(spec.origin).is_relative_to(tree), f"not of {tree}: {spec}"
    waiting = list(json.loads(file.read_text(encoding="utf-8")).items())
    at_work: dict[int, str] = {}
    codes: dict[str, int] = {}
    while waiting or at_work:
        while waiting and len(at_work) < _AT_A_TIME:
            name, arguments = waiting.pop(0)
            at_work[_begin(arguments, file.parent / f"{name}.log")] = name
        pid, status = os.wait()
        codes[at_work.pop(pid)] = os.waitstatus_to_exitcode(status)
    print(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
