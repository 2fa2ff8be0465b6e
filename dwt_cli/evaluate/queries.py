"""Queries: what a model said, and what it might have said instead, as a file of JSON lines.

``{"text": "It returns an [MASK] of floats.", "answer": "array", "instead": "list"}``, where
``instead`` may be left out; a decoder goes on from its text, which has no mask.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.models.options import Head
from dwt_cli.tasks.options import Task

MASK = "[MASK]"
"""The word that is asked for, in a query's text, whatever the tokenizer's mask is called."""

_KEYS = ("text", "answer", "instead")


class Said(NamedTuple):
    """Ids that a model reads, the places of its predictions among them, and what it says there."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Query:
    """A query in words and in ids. instead, other: None: it is compared with nothing.

    Its loss is the answer's cross-entropy, less that of the other.
    """

    text: str
    answer: str
    instead: str | None
    said: Said
    other: Said | None

    @property
    def filled(self) -> str:
        """The text with the answer in it."""
        there = MASK in self.text
        return self.text.replace(MASK, self.answer) if there else f"{self.text} {self.answer}"


def read_queries(
    file: Path, task: Task, tokenizer: PreTrainedTokenizerBase, most: int
) -> list[Query]:
    """Return a file's queries in the ids of a tokenizer; `UserError` names the first bad line.

    most: the longest sequence of ids that the model reads.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, ValueError) else error.strerror
        raise UserError(f"{file} cannot be read ({reason}): give a file of JSON lines") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            words = _words(line)
            sides = _masked if task.head is Head.masked else _continued
            said, other, *_ = [*sides(words, task, tokenizer), None]
            assert said is not None
            if (longest := max(len(side.ids) for side in (said, other) if side)) > most:
                raise ValueError(f"it has {longest} tokens, the model reads {most}; shorten it")
        except ValueError as problem:
            raise UserError(f"{file}, line {number}: {problem}") from problem
        found.append(Query(words["text"], words["answer"], words.get("instead"), said, other))
    if not found:
        raise UserError(f'{file} has no query: write a line as {{"text": ..., "answer": ...}}')
    return found


def _words(line: str) -> dict[str, str]:
    """Return what a line says, by key; raises ValueError for what is no query."""
    try:
        said = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error}); put it right") from error
    if not isinstance(said, dict):
        raise ValueError('no JSON object; write {"text": ..., "answer": ...}')
    for key in said.keys() - set(_KEYS):
        raise ValueError(not_among(f'"{key}"', "key", key, _KEYS))
    for key in _KEYS:
        if key not in said and key != "instead":
            raise ValueError(f'"{key}" is missing; write {{"text": ..., "answer": ...}}')
        if key in said and not (isinstance(said[key], str) and said[key].strip()):
            raise ValueError(f'"{key}" is no text; write it in quotes')
    words = {key: said[key].strip() for key in _KEYS if key in said}
    if words.get("instead") == words["answer"]:
        raise ValueError('"instead" is the answer itself; choose another word')
    return words


def _masked(words: dict[str, str], task: Task, tokenizer: PreTrainedTokenizerBase) -> list[Said]:
    """Return the ids with the mask in the place of each word; ValueError for several tokens."""
    words["text"] = words["text"].replace(str(tokenizer.mask_token), MASK)
    if (count := words["text"].count(MASK)) != 1:
        raise ValueError(f"its text has {count or 'no'} {MASK}; exactly one is needed")
    before, after = task.frame.ids(tokenizer)
    left, right = (task.frame.lead + words["text"]).split(MASK)
    found = []
    for key in _KEYS[1 : len(words)]:
        ids, start, end = ids_of(tokenizer, [left + words[key] + right, left.rstrip(), right])
        here = len(start)
        inside = ids[here : len(ids) - len(end)]
        if [*start, *inside, *end] != ids:
            raise ValueError(f"{MASK} stands inside of a word; put spaces around it")
        if len(inside) != 1:
            tokens = " ".join(tokenizer.convert_ids_to_tokens(inside))
            raise ValueError(
                f'"{key}": {words[key]} is {len(inside)} tokens of this model ({tokens}); choose '
                "a word that is one"
            )
        if inside[0] == tokenizer.unk_token_id:
            raise ValueError(f'"{key}": {words[key]} is not in the vocabulary; choose another')
        shown = (*before, *start, int(tokenizer.mask_token_id), *end, *after)
        found.append(Said(shown, (len(before) + here,), (inside[0],)))
    return found


def _continued(words: dict[str, str], task: Task, tokenizer: PreTrainedTokenizerBase) -> list[Said]:
    """Return the ids of the text as each word goes on with it, after a space."""
    if MASK in words["text"]:
        raise ValueError(f"a decoder goes on where its text ends; leave {MASK} out")
    before, text = task.frame.ids(tokenizer)[0], task.frame.lead + words["text"]
    found = []
    for key in _KEYS[1 : len(words)]:
        given, ids = ids_of(tokenizer, [text, f"{text} {words[key]}"])
        first = len(before) + len(given)
        if ids[: len(given)] != given:
            raise ValueError(f'"{key}" changes the tokens before it; end the text with a word')
        shown = (*before, *ids)
        rows = tuple(range(first - 1, len(shown) - 1))
        found.append(Said(shown[:-1], rows, shown[first:]))
    return found
