"""A signal that a server has written: the prompts it is to be sent, and what its rows must be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.data.tokenizer import content
from dwt_cli.distill.signal.options import Imported
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.order import text_for
from dwt_cli.recipe.stage import Context, Done

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dwt_cli.distill.signal.imported import ImportedSignal
    from dwt_cli.recipe.student import StudentStage
    from dwt_cli.tasks.task import Batch

PROMPTS = "a line of JSON each: send `prompt` with prompt_logprobs, keep what comes"


def tokenizer_sum(corpus: CorpusStage, at: Context) -> str:
    """Return the sha256 sum of what makes the ids of a text that is packed."""
    return str(content(str(corpus.place(at.cache) / "tokenizer"))["sum"])


def check_tokenizer(options: Imported, corpus: CorpusStage, at: Context) -> None:
    """Raise `UserError` unless the rows are said to be in the text's tokens."""
    if options.tokenizer != (ours := tokenizer_sum(corpus, at)):
        raise UserError(
            f"signal.tokenizer={options.tokenizer}: the text is read with another, {ours}, whose "
            "ids mean other tokens; set data.tokenizer to the server's, and ask it anew"
        )


def check_rows(signal: ImportedSignal, batches: Iterator[Batch], path: str | None) -> None:
    """Raise `UserError` if blocks have no rows."""
    of, lacking = 0, 0
    for batch in batches:
        of, lacking = of + len(batch.ids_BL), lacking + len(signal.lacking(batch))
    if lacking:
        raise UserError(
            f"signal.path={path}: {lacking:,} of {of:,} blocks have no rows there; "
            "run.prompts=true writes them down to be sent to the server"
        )


def check_decoded(
    said: Iterable[tuple[int, str]], tokenizer: PreTrainedTokenizerBase, path: str | None
) -> None:
    """Raise `UserError` where a token stands for another text than the rows say.

    Spaces around it do not count, which servers leave out, nor parts of a character.
    """
    for number, text in said:
        token, ours = str(tokenizer.convert_ids_to_tokens(number)), str(tokenizer.decode([number]))
        alike = {each.strip() for each in (token, token.removeprefix("##"), ours)}
        if not text.strip() or "\ufffd" in text or text.strip() in alike:
            continue
        raise UserError(
            f"signal.path={path}: id {number} is {text!r} there, and {ours!r} in the "
            "text's tokenizer; set data.tokenizer to the server's, and ask it anew"
        )


def write_prompts(student: StudentStage, root: Path, at: Context) -> None:
    """Write the blocks that the student hears and no row is about as prompts, and say where."""
    from dwt_cli.tasks.batches import TrainBatches

    of, stage, teacher = student.shapes.conditions, student.cached, student.teacher
    if stage is None or teacher is None or (options := stage.options.imported) is None:
        raise UserError(
            "run.prompts=true: no server is asked here; choose signal=imported, with a soft weight"
        )
    done: Done = {student.corpus.name: student.corpus.carry_out({}, at)}
    corpus, steps = text_for(student, done), stage.distilled_steps(done) or []
    drawn = (of.train.batch_size, student.seed, student.purpose)
    batches = TrainBatches(corpus.train, of.task.targets(corpus.tokenizer), *drawn)
    signal: ImportedSignal = teacher.options.signal(None, of.data.vocab_size)  # type: ignore[assignment]
    prompts: dict[bytes, list[int]] = {}
    for step, number in zip(steps, count(1), strict=False):
        batch = batches.batch(step)
        for block in signal.lacking(batch):
            ids_L = batch.ids_BL[block]
            prompts.setdefault(ids_L.numpy().tobytes(), ids_L.tolist())
        at.show.update(stage.name, number / len(steps), "looking for prompts")
    if not at.ranks.is_first:
        return
    place = root / f"prompts-{stage.identity}.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"prompt": ids}) + "\n" for ids in prompts.values())
    atomic.write_text(place, "".join(lines))
    at.show.say(f"{len(prompts):,} prompts, {PROMPTS}: {place}")
    at.show.say(
        f"prompt_logprobs={options.num_entries} or more; then give signal.path=FILES "
        f"signal.tokenizer={tokenizer_sum(student.corpus, at)}"
    )
