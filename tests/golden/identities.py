"""The identities that commands give today, and those of version 0.2: identities.json.

``python -m tests.golden.identities`` rewrites the file; ``--new`` only adds and removes. Whoever
commits it says why each line of the difference has changed: a finished run, teacher or text of
another identity is not found again. A command whose run is not found under the identity of version
0.2 stands in `OLDER`.
"""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from dwt_cli.cli import overrides
from dwt_cli.config import check, files
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import Run, Study
from dwt_cli.data.docs import Docs
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.teacher import TrainedStage
from tests.golden.commands import every

FILE = Path(__file__).with_name("identities.json")

Identities = dict[str, Any]
"""run, alone (its stand-alone student), corpus, teachers, for remap=ligo maps, for alpha=crossover
the curve; and in `formerly` the same of version 0.2, with null where the result was another one."""

OLDER = {
    "task.mask_ratio=0.3 task.keep_ratio=0 task.random_ratio=0.2":
        "held-out text was masked by the task's ratios, and is by eval.mask_ratio",
}  # fmt: skip
"""The commands whose runs of version 0.2 had another result, and why. It knew no decoders."""


@contextmanager
def pinned() -> Iterator[None]:
    """Make what identities follow besides the command the same everywhere.

    Installed packages are text: the docstrings are said to be those of docs.json, the environment
    of the results on record. The working directory has a folder ``text`` and a checkpoint
    ``model`` and a file ``labelled.jsonl``, of which only the bytes count.
    """
    docs = json.loads(FILE.with_name("docs.json").read_text(encoding="utf-8"))

    def provenance(self: Docs) -> dict[str, Any]:
        return docs | {"packages": {name: docs["packages"][name] for name in self.packages}}

    with TemporaryDirectory() as folder, chdir(folder):
        for file, content in {
            "text/a.txt": "One sentence.\n",
            "text/b.txt": "Another one.\n",
            "RTE/train.tsv": "sentence1\tsentence2\tlabel\n",
            "RTE/dev.tsv": "sentence1\tsentence2\tlabel\n",
            "labelled.jsonl": '{"text": "a", "label": "b"}\n',
            "rows.jsonl": "{}\n",
            "model/config.json": "{}\n",
            "model/model.safetensors": "weights\n",
            "model/tokenizer.json": "{}\n",
        }.items():
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text(content, encoding="utf-8")
        with patch.object(Docs, "provenance", provenance):
            yield


def composed(words: str) -> Run:
    """Read and compose a command as the front door does, and check it."""
    asked = overrides.read(shlex.split(words))
    is_study = files.is_study(asked.config_name, asked.config_dir)
    primary, folder = asked.config_name or "config", asked.config_dir
    (run,), _ = runs_of(asked.overrides, Study if is_study else Run, primary, folder)
    check.check(run)
    return run


def identities(run: Run) -> Identities:
    """Return everything that a run and its parts are found by."""
    recipe = recipe_of(run)
    stages = {"run": recipe, "alone": recipe.alone(), "corpus": recipe.corpus}
    for stage in (recipe.maps, recipe.crossing):
        if stage:
            stages[stage.kind] = stage
    found: Identities = {name: stage.identity for name, stage in stages.items()}
    before: Identities = {name: stage.formerly for name, stage in stages.items()}
    found["teachers"] = recipe.teacher.identities if recipe.teacher else []
    # what was opened is found by the same identity as ever
    each = (recipe.teacher.members or [recipe.teacher]) if recipe.teacher else ()
    before["teachers"] = [
        stage.formerly if isinstance(stage, TrainedStage) else stage.identity for stage in each
    ]
    return {**found, "formerly": before}


def kept() -> dict[str, Identities]:
    """Return what the file says, by command."""
    found: dict[str, Identities] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Write the file anew, a line for each command; with ``--new`` those that it has stay."""
    there = kept() if sys.argv[1:] == ["--new"] else {}
    with pinned():
        found = {words: there.get(words) or identities(composed(words)) for words in every()}
    lines = [f"  {json.dumps(words)}: {json.dumps(each)}" for words, each in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
