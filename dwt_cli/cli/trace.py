"""``dwt-trace``: which training blocks made a student say this rather than that."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dwt_cli.base import interrupt
from dwt_cli.base.errors import MISTAKE
from dwt_cli.config import explain

_PROGRAM = "dwt-trace"

_ABOUT = """\
Say which blocks of its training text made a student say this rather than that.

The run has to have kept models of some moments, the start among them:

  dwt-train remap=stack eval.at=[0,0.25,0.5,0.75,1]

queries.jsonl has a line for each answer that is to be traced. A masked model's text has one
[MASK], and its answers are one token each; a decoder goes on from its text, in any number of
tokens. Without "instead" the answer alone is traced:

  {"text": "It returns an [MASK] of floats.", "answer": "array", "instead": "list"}

  dwt-trace runs/small-stack-seed0-... queries.jsonl
"""

_MORE = """\
A block's score is the product of its gradient and the query's: positive where a step on the block
makes the answer likelier than the other. It is the mean over the moments, less that at the start
(--beta): with remap, and with student=checkpoint, the start is what the model knew already, so what
is left is what the text has taught it. This is DDA (2410.01285), as others tell it; that the mean
over moments is a plain one, and that each moment's products are brought to one size before (unless
--raw), is reconstructed. Blocks are weighed by the cross-entropy of their text, with the masks
under which they were read; the teacher's soft loss does not count.

Debiasing can take out more than it should, where a run has moved little, or its start ranks blocks
alike; in benchmarks/README.md products at the end alone did better. Page and table have these
beside it, and BM25. Both are written to RUN/trace/NAME_OF_QUERIES/: trace.html with the texts of
blocks and their documents, scores.csv with all of them. Products are kept in the cache: typed
again, a command goes on where it stopped, and computes what is new.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trace queries in a run, print where the page is: ``dwt-trace``."""
    parser = argparse.ArgumentParser(
        _PROGRAM,
        description=_ABOUT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("queries", type=Path, metavar="QUERIES", help="a file of JSON lines")
    about = "how much of the start is taken off (1); 0 where the start knew nothing"
    parser.add_argument("--beta", type=float, default=1.0, help=about)
    about = "products as they are, with which moments of large gradients outweigh the others"
    parser.add_argument("--raw", action="store_true", help=about)
    about = "of how many times that a masked block was read the masks count (4)"
    parser.add_argument("--visits", type=int, metavar="N", help=about)
    about = "blocks for and against each answer on the page (20)"
    parser.add_argument("--top", type=int, default=20, metavar="N", help=about)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where page and scores go")
    parser.add_argument("--cache", metavar="DIR", help="as run.cache, where it has moved")
    options = parser.parse_args(arguments)

    from rich.console import Console  # --help does not pay for torch

    from dwt_cli.launch.process import loading

    try:
        with interrupt.stoppable():
            with loading():
                from dwt_cli.recipe import trace
            asked = dict(vars(options))
            run, queries = (asked.pop(name).expanduser() for name in ("run", "queries"))
            trace.carry_out(run, queries, trace.Options(**asked), Console())
        return 0
    except KeyboardInterrupt as stop:
        return interrupt.report(stop, _PROGRAM, arguments or sys.argv[1:])
    except Exception as error:
        line = explain.answer(error)
        if line is None:
            raise
        print(f"{_PROGRAM}: {line}", file=sys.stderr)
        return MISTAKE
