"""A chain's record: chain.json, and its table as chain.csv and chain.md, in the chain's folder.

The folder is ``runs/chains/<name>/``. FLOPs of a stage are those of its student, its teachers'
forward passes and what its start was learned by; all stages are charged to the last model. What
made the models that are no stage of the chain is named apart.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from dwt_cli.base import atomic
from dwt_cli.base.atomic import read_json
from dwt_cli.base.identity import plain
from dwt_cli.base.templates import code, markdown
from dwt_cli.track.display import plain_line
from dwt_cli.track.summary import Summary

FILES = ("chain.json", "chain.csv", "chain.md")

_PRETRAINING = "teacher_pretraining_flops"


@dataclass(frozen=True)
class Divergence:
    """How far a stage's model is from another, on dev texts.

    run: the folder's name of the other's. models: determines the content of both. values: as of
    `dwt_cli.recipe.divergence`.
    """

    run: str
    models: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Link:
    """A stage of a chain.

    words: what `dwt-train` is told for it; models that are not there yet as ``@NAME``. layers: of
    its student. outside: the teacher that it has from outside of the chain, and its layers. folder:
    of its run, relative to the chain's; null: it has not begun. error: the one line that it failed
    with. divergence: from the model that knows the task; null where the chain has none.
    """

    name: str
    layers: int
    words: tuple[str, ...]
    outside: tuple[str, int | None] | None
    folder: str | None
    error: str | None = None
    divergence: Divergence | None = None


@dataclass(frozen=True)
class ChainRecord:
    """The content of chain.json, but for what the runs' own summaries say.

    name: of the chain's folder. command: the words that started it last.
    """

    name: str
    command: str
    links: tuple[Link, ...]


def known_divergences(folder: Path) -> dict[str, Divergence]:
    """Return what a chain's record has of `Link.divergence`, by the stages' names."""
    links = (read_json(folder / FILES[0]) or {}).get("links", ())
    found = {each["name"]: each.get("divergence") or {} for each in links}
    return {name: Divergence(**each) for name, each in found.items() if "models" in each}


def write_chain(folder: Path, chain: ChainRecord) -> pd.DataFrame:
    """Write the three files; return the table, a line for each model from outside and each stage.

    flops_charged: the sum up to a stage. Losses are on held-out text, in nats per target.
    """
    whole = dict.fromkeys(("layers", "steps", "tokens"), "Int64")  # some are not known
    table = pd.DataFrame(_rows(folder, chain.links)).astype(whole)
    atomic.write_json(folder / FILES[0], plain(chain) | {"table": _values(table)})
    atomic.write_text(folder / FILES[1], table.to_csv(index=False))
    shown = _shown(table)
    lines = [[*shown], ["---"] * len(shown.columns), *shown.itertuples(index=False)]
    text = "".join(f"| {' | '.join(markdown(str(each)) for each in line)} |\n" for line in lines)
    title = f"# Chain: {markdown(chain.name)}\n\n{code(chain.command)}\n\n"
    below = "\n\n".join(_apart(table))
    atomic.write_text(folder / FILES[2], f"{title}{text}\n{below}\n")
    return table


def print_chain(console: Console, folder: Path, chain: ChainRecord, table: pd.DataFrame) -> None:
    """Print the table, what is named apart, and the places."""
    say, shown = plain_line(console), _shown(table)
    columns = [Column(name, justify="left" if name == "stage" else "right") for name in shown]
    grid = Table(*columns, title=f"chain: {chain.name}", title_justify="left")
    for line in shown.itertuples(index=False):
        grid.add_row(*map(str, line))
    console.print(grid)
    for line in _apart(table):
        say(line)
    if (last := folder / (chain.links[-1].folder or "") / "model").is_dir():
        say(f"model: {last.resolve()}")
    for file in FILES:
        say(f"{Path(file).suffix[1:]}: {folder / file}")


def _rows(folder: Path, links: Sequence[Link]) -> list[dict[str, Any]]:
    rows, seen, charged = [], set[str](), 0.0
    for link in links:
        content = read_json(folder / link.folder / "summary.json") if link.folder else None
        done = Summary.from_json(content) if content and not link.error else None
        if link.outside and link.outside[0] not in seen:
            seen.add(link.outside[0])
            teacher = done.teacher if done else None
            rows.append(
                _row("outside", link.outside[0], link.outside[1])
                | {
                    "tokens": teacher and teacher.tokens,
                    "flops": done and done.cost[_PRETRAINING],
                    "heldout_after": teacher and teacher.heldout.get("loss"),
                }
            )
        row = _row("stage", link.name, link.layers) | {
            "state": "failed" if link.error else "finished" if done else "missing",
            "command": shlex.join(["dwt-train", *link.words]),
        }
        if link.divergence:
            row |= {f"divergence_{name}": n for name, n in link.divergence.values.items()}
        if done:
            cost, student, remap = done.cost, done.student, done.student.remap
            flops = [n for key, n in cost.items() if key.endswith("_flops") and key != _PRETRAINING]
            before = student.heldout_at_start or {}
            own = sum(math.nan if n is None else n for n in flops)
            charged += own
            row |= {
                "steps": student.steps,
                "tokens": student.tokens,
                "flops": own,
                "seconds": (cost["student_seconds"] or 0) + (cost["remap_seconds"] or 0),
                "heldout_before": remap["losses"]["remapped"] if remap else before.get("loss"),
                "heldout_after": student.loss,
                "flops_charged": charged,
                "run": done.name,
            }
        rows.append(row)
    return rows


def _row(kind: str, name: str, layers: int | None) -> dict[str, Any]:
    numbers = ("steps", "tokens", "flops", "seconds", "heldout_before", "heldout_after")
    empty = dict.fromkeys((*numbers, "flops_charged", "state", "run", "command"))
    return {"kind": kind, "stage": name, "layers": layers, **empty}


def _values(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines as JSON values; what is not known is null."""
    lines = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in line.items()} for line in lines.to_dict("records")]


_DIVERGENCES = {"divergence_classes": "KL", "divergence_attention": "attention"}
"""Columns of a chain that knows a task, and what is said of them below the table."""

_FORMS = {"layers": ".0f", "steps": ".0f", "FLOPs": ".3g", "seconds": ".0f", "before": ".3f",
          "after": ".3f"}  # fmt: skip


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is printed: the lines in short, and the sum that is charged to the last model."""
    stages = table[table.kind == "stage"]
    names = {"flops": "FLOPs", "heldout_before": "before", "heldout_after": "after"}
    shown = table.rename(columns=names)[["stage", *_FORMS]].copy()
    outside = [f"({name})" for name in table.stage[table.kind == "outside"]]
    shown.loc[table.kind == "outside", "stage"] = outside
    whole = {name: pd.to_numeric(stages[name]).sum(skipna=False) for name in ("flops", "seconds")}
    last = stages.iloc[-1]
    total = ["charged to the last", None, None, whole["flops"], whole["seconds"], None]
    shown.loc[len(shown)] = [*total, last.heldout_after]
    for name, form in _FORMS.items():
        numbers = shown[name].astype(float)
        shown[name] = ["" if math.isnan(n) else format(n, form) for n in numbers]
    return shown


def _apart(table: pd.DataFrame) -> list[str]:
    """Return what is said below the table: what made the models from outside, and divergences.

    KL of the classes, in nats; squared differences of the scores of attention.
    """
    flops = pd.to_numeric(table.flops[table.kind == "outside"]).sum(skipna=False)
    known = "unknown" if math.isnan(flops) else f"{flops:.3g} FLOPs"
    lines = [f"apart from the sum, the teacher's pre-training: {known}"]
    for row in table.to_dict("records"):
        there = {short: row.get(name) for name, short in _DIVERGENCES.items()}
        said = [f"{short} {n:.3g}" for short, n in there.items() if n is not None and n == n]
        lines += [f"{row['stage']}, divergence on the task's dev texts: {', '.join(said)}"] * bool(
            said
        )
    return lines
