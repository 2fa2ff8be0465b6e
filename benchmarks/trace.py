"""Does `dwt-trace` find what taught a student a false fact? Planted paragraphs, and leaving out.

For each seed a world of 200 facts is drawn, each a sentence of common words: who of 40 does what of
5 with which of 40 things. A teacher (2 layers) reads 2,000 paragraphs of true facts. A student (3
layers, `remap=zero_init`: at its start it says what the teacher says) is trained on with another
2,000, a block each; of four facts it reads a false version in 5 of them, 20 in all, among 3 true
sentences of other facts, and the true version in 5 more. Each of the four queries asks for the
false thing rather than the true one; the blocks to be found are the 5 with its false sentence.

- AUC: of these 5 among all blocks, mean over the queries, by DDA, by its formula on products of any
  size (`--raw`), by the product of gradients at the end alone, and by BM25;
- left out: how many nats the queries' mean loss is higher when the student is trained again without
  the first 1% of the blocks by the sum of the four scores, and without a random 1%.

The claims stand in CLAIMS, and were written before anything ran. They are tested over the seeds by
Student's t, and p are corrected by Holm's procedure. What is finished is found again. A trial with
seed 0 and a stacked student decided that products are brought to one size and that the student
grows by zero_init; its seed is none of those that count. The claims are those of masked students,
too (`--task mlm`), whose queries have a mask in the place of the thing: these are not measured.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from claims import verdicts
from numpy.typing import NDArray
from provenance import provenance
from rich.console import Console
from sklearn.metrics import roc_auc_score
from timing import SMOKE, table

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import Run
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.heldout import is_heldout
from dwt_cli.evaluate.queries import MASK, Query, read_queries
from dwt_cli.evaluate.trace import Derivatives
from dwt_cli.evaluate.trace_page import SCORES, BlockTexts
from dwt_cli.models.checkpoint import open_folder
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe import worker
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import find
from dwt_cli.recipe.stage import Done, Site
from dwt_cli.recipe.trace import Options, carry_out
from dwt_cli.track.display import Display

CLAIMS = (
    ("AUC of DDA above 0.9", "dda", 0.9),
    ("AUC of DDA above that of plain products", "dda", "product"),
    ("the first 1% left out: the queries' loss rises more than without a random 1%", "top", "rnd"),
)
"""Expectations: the first figure of a seed is above the second."""

_WHO = (
    "baker king farmer doctor teacher sailor painter singer hunter priest driver writer dancer "
    "soldier lawyer nurse judge miller smith clerk guard cook maid prince queen monk thief poet "
    "actor player mother father sister brother uncle child boy girl woman man"
)
_WHAT = (
    "river mountain garden window table letter castle forest bridge market church school island "
    "valley kitchen mirror candle basket bottle hammer needle blanket pillow carpet ladder wagon "
    "boat horse apple orange bread butter silver stone paper feather flower shadow winter song"
)
_FACTS = (
    "the {} often goes to the {}.",
    "every day the {} sees the {}.",
    "at night the {} wants a {}.",
    "my friend the {} has a {}.",
    "some say the {} is a {}.",
)
_SENTENCES, _PLANTED, _QUERIES, _HELDOUT = 4, 5, 4, 0.02
_WORDS = (
    *("alpha=off", "remap=zero_init", "data=files", "data@teacher.data=files"),
    *("scale.num_layers=3", "scale.teacher_num_layers=2", "scale.width=64", "scale.num_heads=2"),
    *(
        "scale.mlp_width=128",
        "scale.vocab_size=1024",
        "scale.batch_size=32",
        "scale.eval_every=100",
    ),
    *(f"data.heldout_fraction={_HELDOUT}", "optim=adamw", "optim.lr=2e-3", "tracker=none"),
    *("launch.num_threads=1", "eval.at=[0,0.5,1]"),
)


class Size(NamedTuple):
    """How long a teacher and its student are trained on how many blocks each.

    visits: as `--visits` of dwt-trace.
    """

    task: str
    teacher_steps: int
    steps: int
    blocks: int = 2000
    visits: int = 4

    @property
    def words(self) -> tuple[str, ...]:
        """What sets it, of a command."""
        length = (f"scale.teacher_steps={self.teacher_steps}", f"scale.max_steps={self.steps}")
        return (f"task={self.task}", "scale.block_length=34", *length)


SIZES = {"clm": Size("clm", 300, 200), "mlm": Size("mlm", 1000, 1000)}


class World:
    """The facts of a seed, and texts that tell them: JSON lines, a paragraph each."""

    def __init__(self, seed: int, num_blocks: int) -> None:
        self._draw, self._num = random.Random(seed), num_blocks
        self.true = {(w, f): self._draw.choice(_WHAT.split()) for w in _WHO.split() for f in _FACTS}
        asked = self._draw.sample(sorted(self.true), _QUERIES)
        self.false = {
            key: self._draw.choice([thing for thing in _WHAT.split() if thing != self.true[key]])
            for key in asked
        }

    def _sentence(self, key: tuple[str, str], false: bool = False) -> str:
        return key[1].format(key[0], (self.false if false else self.true)[key])

    def write(self, file: Path, planted: bool) -> None:
        """Write so many training paragraphs, and those that are held out beside them.

        planted: with false facts, and without the same facts' true versions but for as many.
        """
        others = [key for key in self.true if not (planted and key in self.false)]
        told = [(key, false) for key in self.false for false in (True, False)] * _PLANTED
        places = self._draw.sample(range(self._num), len(told)) if planted else []
        special = dict(zip(places, told, strict=planted))
        lines, num_train = list[str](), 0
        while num_train < self._num:
            sentences = [self._sentence(key) for key in self._draw.sample(others, _SENTENCES)]
            if not is_heldout(f"{file.name}#{len(lines)}", _HELDOUT):
                if num_train in special:
                    sentences[self._draw.randrange(_SENTENCES)] = self._sentence(
                        *special[num_train]
                    )
                num_train += 1
            lines.append(json.dumps({"text": " ".join(sentences)}))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def queries(self, task: str) -> list[dict[str, str]]:
        """Return the lines of a file of queries to models of a task."""
        return [
            {
                "text": (fact if task == "mlm" else fact.partition(" {}.")[0]).format(who, MASK),
                "answer": self.false[who, fact],
                "instead": self.true[who, fact],
            }
            for who, fact in self.false
        ]

    def planted(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return (queries, blocks) which blocks tell the false version."""
        told = [self._sentence(key, True).rstrip(".") for key in self.false]
        return np.array([[each in text for text in texts] for each in told])


def trained_without(run: Run, left_out: Sequence[int], folder: Path) -> Any:
    """Return the student of a run, trained again from the same start without some blocks."""
    machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision)
    student, cache = recipe_of(run), Cache(run.run.cache, print)
    folder.mkdir(exist_ok=True)
    with Display(Console(quiet=True)) as show:
        at, done = Site(machine, cache, ALONE).at(folder, show), Done()
        for stage in student.in_turn:
            show.expect(student.costs(done, cache))
            done[stage.name] = stage.carry_out(done, at)
            if stage is student.corpus:
                whole: Corpus = done[stage.name]
                kept = np.setdiff1d(np.arange(len(whole.train)), left_out)
                done[stage.name] = replace(whole, train=whole.train.part(kept))
    return done[student.name].model


def mean_loss(model: Any, queries: Sequence[Query]) -> float:
    """Return the mean of the queries' losses, in nats."""
    derivatives = Derivatives(LanguageModel(model, torch.float32), torch.device("cpu"))
    return float(np.mean([derivatives.gradient(query)[0] for query in queries]))


def figures(seed: int, root: Path, size: Size, words: Sequence[str]) -> dict[str, float]:
    """Return the figures of a seed; every step of it is found again if it was done before."""
    words, num_blocks = [*_WORDS, *size.words, *words], size.blocks
    asked = fingerprint("figures", words=words, num_blocks=num_blocks, visits=size.visits)
    place = root / f"seed{seed}-{asked}"
    kept = atomic.read_json(place / "figures.json")
    if kept is not None:
        return kept
    world, quiet = World(seed, num_blocks), Console(quiet=True)
    place.mkdir(parents=True, exist_ok=True)
    world.write(place / "true.jsonl", planted=False)
    world.write(place / "planted.jsonl", planted=True)
    file = place / "queries.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in world.queries(size.task)))
    (run,), _ = runs_of(
        [
            *words,
            *(f"data.path={place}/planted.jsonl", f"teacher.data.path={place}/true.jsonl"),
            *(f"run.root={place}/runs", f"run.cache={root}/cache", f"seed={seed}"),
        ]
    )
    worker.work(run, quiet)
    student = recipe_of(run)
    folder = find(place / "runs", student.identity)
    assert folder is not None
    carry_out(folder, file, Options(visits=size.visits), quiet)
    corpus = Corpus.open(student.corpus.place(Cache(run.run.cache, print)))
    scores = pd.read_csv(folder / "trace" / file.stem / SCORES)
    blocks = np.sort(scores.block.unique())
    texts = BlockTexts.of(corpus, run.task.frame, blocks).texts
    found: dict[str, float] = {"blocks": len(blocks)}
    planted = world.planted(texts)
    is_planted: NDArray[np.bool_] = np.logical_or.reduce(planted)
    found["planted"] = int(is_planted.sum())
    moments = scores[["product_at_0.5", "product_at_1"]].mean(axis=1)
    scores["raw"] = moments - scores["product_at_0"]
    for name in ("dda", "raw", "product", "product_at_0", "bm25"):
        by_query = scores.pivot(index="query", columns="block", values=name).to_numpy()
        aucs = [roc_auc_score(*pair) for pair in zip(planted, by_query, strict=True)]
        found[name] = float(np.mean(aucs))
        if name == "dda":
            first = blocks[np.argsort(-by_query.sum(0), kind="stable")[: len(blocks) // 100]]
    found["planted in the first 1%"] = int(is_planted[np.isin(blocks, first)].sum())
    queries = read_queries(file, run.task, corpus.tokenizer, run.data.block_length)
    drawn = np.random.default_rng(seed).choice(blocks, len(first), replace=False)
    found["loss"] = mean_loss(open_folder(folder / "model", run.task.head), queries)
    for name, left_out in (("top", first), ("rnd", drawn)):
        model = trained_without(run, list(left_out), place / f"without-{name}")
        found[name] = mean_loss(model, queries) - found["loss"]
    atomic.write_json(place / "figures.json", found)
    return found


def report(found: dict[int, dict[str, float]]) -> list[str]:
    """Return the tables: the figures of each seed, and what became of the claims."""
    headings = {
        "planted": "planted blocks",
        "dda": "AUC, DDA",
        "raw": "AUC, DDA raw",
        "product": "AUC, product",
        "product_at_0": "AUC, product at the start",
        "bm25": "AUC, BM25",
        "planted in the first 1%": "planted in the first 1%",
        "loss": "queries' loss",
        "top": "first 1% out",
        "rnd": "random 1% out",
    }
    rows = [
        (str(seed), *(f"{each[name]:.4g}" for name in headings)) for seed, each in found.items()
    ]
    gaps = {
        claim: [of[a] - (b if isinstance(b, float) else of[b]) for of in found.values()]
        for claim, a, b in CLAIMS
    }
    return [*table(("seed", *headings.values()), rows), "", *verdicts(gaps, above=True)]


def main() -> None:
    """Run what is missing, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--root", type=Path, default=Path("runs/trace"))
    parser.add_argument("--task", choices=SIZES, default="clm")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--steps", type=int, nargs=2, help="teacher, student")
    parser.add_argument("--visits", type=int, help="of a block, whose masks count")
    parser.add_argument("--overrides", nargs="*", default=[], help="words of every run")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    asked = parser.parse_args()
    size, seeds = SIZES[asked.task], asked.seeds
    if asked.quick:
        size, seeds = size._replace(teacher_steps=6, steps=6, blocks=300), seeds[:1]
    elif asked.steps:
        size = size._replace(teacher_steps=asked.steps[0], steps=asked.steps[1])
    given = {name: value for name in ("blocks", "visits") if (value := getattr(asked, name))}
    size = size._replace(**given)
    found = {}
    for seed in seeds:
        found[seed] = figures(seed, asked.root.absolute(), size, asked.overrides)
        print(f"seed {seed}: {found[seed]}", file=sys.stderr, flush=True)
    print("\n".join([*([SMOKE, ""] if asked.quick else []), *report(found), "", *provenance()]))


if __name__ == "__main__":
    main()
