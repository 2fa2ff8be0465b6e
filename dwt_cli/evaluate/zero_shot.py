"""LAMBADA (1606.06031), HellaSwag (1905.07830), ARC (1803.05457), from files in their own formats.

A causal model is asked how likely a text goes on in a given way. Prompts, tokens and metrics are
those of lm-evaluation-harness 0.4.13, zero-shot.
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwt_cli.base.errors import UserError, first_line
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.measurement import EvaluatedModel, Score
from dwt_cli.evaluate.options import LocalFile
from dwt_cli.models.anatomy import num_positions
from dwt_cli.tasks.likelihoods import Sentence, continuations


class Item(NamedTuple):
    """A text, the ways in which it may go on, of which each follows a space, and the right one."""

    context: str
    choices: list[str]
    gold: int


def _lambada(row: dict[str, Any]) -> Item:
    context, _, word = row["text"].rpartition(" ")
    return Item(context, [word], 0)


def _hellaswag(row: dict[str, Any]) -> Item:
    def cleaned(text: str) -> str:  # the brackets come from WikiHow
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Item(cleaned(context), [cleaned(each) for each in row["endings"]], int(row["label"]))


def _arc(row: dict[str, Any]) -> Item:
    asked = row["question"]
    gold = [choice["label"] for choice in asked["choices"]].index(row["answerKey"])
    texts = [choice["text"] for choice in asked["choices"]]
    return Item(f"Question: {asked['stem']}\nAnswer:", texts, gold)


SETS: dict[str, Callable[[dict[str, Any]], Item]] = {
    "lambada": _lambada,
    "hellaswag": _hellaswag,
    "arc": _arc,
}


def read(name: str, options: LocalFile) -> list[Item]:
    """Return the items of a set; `UserError` without a file, or with a line in another format."""
    written = f"eval.{name}.path={options.path}"
    if options.path is None:
        raise UserError(f"eval.{name}.path has no value: give the set's .jsonl file")
    items: list[Item] = []
    try:
        with Path(options.path).expanduser().open(encoding="utf-8") as lines:
            for line in islice(lines, options.num_items):
                item = SETS[name](json.loads(line))
                if not 0 <= item.gold < len(item.choices) or not all(item.choices):
                    raise ValueError("no right choice, or an empty one")
                items.append(item)
    except OSError as error:
        raise UserError(f"{written}: {error.strerror}; give the set's .jsonl file") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{written}: line {len(items) + 1} is not in the set's own format "
            f"({type(error).__name__}: {first_line(error)}); fetch the file again"
        ) from error
    if not items:
        raise UserError(f"{written}: the file is empty; fetch it again")
    return items


def scores(tested: EvaluatedModel, name: str, options: LocalFile) -> list[Score]:
    """Return the harness's metrics.

    LAMBADA has acc, the share of words that greedy decoding finds whole, and perplexity of a word.
    The others have acc, the share of items whose right choice is the likeliest, and acc_norm, by
    log-likelihood per character.
    """
    items = read(name, options)
    pairs = [(item.context, f" {choice}") for item in items for choice in item.choices]
    log_p, is_greedy = log_likelihoods(tested, pairs)
    count, title = len(items), f"{name}/{Path(options.path or '').stem}"

    def score(metric: str, values: NDArray[Any], **more: Any) -> Score:
        error = float(np.std(values, ddof=1)) / count**0.5 if count > 1 else None
        return Score(title, metric, float(np.mean(values)), error, count, **more)

    if name == "lambada":
        nats = score("perplexity", -log_p)
        value = float(np.exp(nats.value))
        error = nats.stderr and nats.stderr * value
        return [score("acc", is_greedy), Score(title, "perplexity", value, error, count)]
    ends = np.cumsum([len(item.choices) for item in items])[:-1]
    by_item = np.split(log_p, ends)
    chance = {"chance": float(np.mean([1 / len(item.choices) for item in items]))}
    golds = [item.gold for item in items]
    found = {"acc": by_item}
    lengths = [np.array([len(choice) for choice in item.choices]) for item in items]
    found["acc_norm"] = [each / length for each, length in zip(by_item, lengths, strict=True)]
    return [
        score(metric, np.array([each.argmax() for each in values]) == golds, baselines=chance)
        for metric, values in found.items()
    ]


def encode(tested: EvaluatedModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[Sentence, int]]:
    """Return the ids of each context and its continuation, and how many the context has.

    They are encoded together, and cut where the context alone ends; spaces at its end belong to
    the continuation. Special tokens are the tokenizer's own; an empty context is BOS, else EOS.
    What is too long loses its beginning.
    """
    tokenizer, most = tested.tokenizer, num_positions(tested.model.config) + 1
    begin, _ = tested.task.frame.ids(tokenizer)
    contexts = [context.rstrip() for context, _ in pairs]
    wholes = [context + continuation for context, continuation in pairs]
    found = []
    for context, given, whole, plain in zip(
        contexts,
        ids_of(tokenizer, contexts, special_tokens=True),
        ids_of(tokenizer, wholes, special_tokens=True),
        ids_of(tokenizer, wholes),
        strict=True,
    ):
        ids, num_given = (whole, len(given)) if context else (begin + plain, len(begin))
        num_cut = max(0, len(ids) - most)
        found.append((tuple(ids[num_cut:]), max(1, num_given - num_cut)))
    return found


def log_likelihoods(
    tested: EvaluatedModel, pairs: Sequence[tuple[str, str]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return log p in nats of each continuation of its context, and whether greedy finds it."""
    return continuations(tested.language_model, encode(tested, pairs), tested.device)
