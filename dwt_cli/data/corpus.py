"""A folder of packed blocks and their tokenizer, made from a text source in one pass.

The folder holds ``tokenizer/``, ``train/`` and ``heldout/`` (numbered shards, and which documents
they are from), and ``report.json``.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwt_cli.base import atomic, network
from dwt_cli.base.errors import first_line
from dwt_cli.data import bpe
from dwt_cli.data import tokenizer as wordpiece
from dwt_cli.data.documents import FILE, noted
from dwt_cli.data.heldout import LeakCheck, Pieces, pieces_of
from dwt_cli.data.options import Data, Frame, TokenizerKind
from dwt_cli.data.pack import BYTES, Blocks, block_bytes, pack, write_blocks
from dwt_cli.data.source import CorpusError, Document, Progress, Source
from dwt_cli.data.tokenizer import bytes_of_tokens, ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILDER_VERSION = 2  # raise it when the same text would give other blocks
_CHUNK_CHARACTERS = 1_000_000  # tokenised at once
_SAMPLE_CHARACTERS = 64_000_000  # what a tokenizer is trained on: the beginning of the text
_OF_WEIGHTS = (".safetensors", ".bin")
_TRAINED = {
    (TokenizerKind.wordpiece, "sep_token"): wordpiece.train_tokenizer,
    (TokenizerKind.bpe, "sep_token"): bpe.train_with_masks,
    (TokenizerKind.bpe, "eos_token"): bpe.train_tokenizer,
}
"""Trainers by the tokenizer's kind, and by the role of what ends a text."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: its tokenizer, its packed blocks, and what is known about it."""

    tokenizer: "PreTrainedTokenizerBase"
    train: Blocks
    heldout: Blocks
    report: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        num_tokens = max(tokenizer.get_vocab().values()) + 1  # there may be gaps
        return cls(
            tokenizer,
            Blocks(folder / "train", num_tokens),
            Blocks(folder / "heldout", num_tokens),
            json.loads((folder / "report.json").read_text(encoding="utf-8")),
        )


def build(
    source: Source,
    options: Data,
    frame: Frame,
    tokenizer_path: str | None,
    folder: Path,
    progress: Progress,
    say: Callable[[str], None],
    pieces: Pieces | None = None,
) -> None:
    """Read, split, tokenise, pack and write a corpus into ``folder``.

    frame: the special tokens of blocks and paragraphs. tokenizer_path: a tokenizer to open; None
    trains one. pieces: how the text is split, if not by whole documents; so it is too where these
    leave no block on either side. Raises `CorpusError` when the text is too short for one.
    """
    for part in ("tokenizer", "train", "heldout"):  # left by an interrupted start
        shutil.rmtree(folder / part, ignore_errors=True)
    stream = source.documents(progress)
    if tokenizer_path is None:
        sample = list(_take(stream, _SAMPLE_CHARACTERS))
        if not sample:
            raise CorpusError(f"data: {options.named} has no text; choose another source")
        stream = itertools.chain(sample, stream)
        tokenizer: PreTrainedTokenizerBase = _TRAINED[options.tokenizer_kind, frame.end](
            _texts(sample, frame), options.vocab_size, options.block_length
        )
    else:
        tokenizer = open_tokenizer(tokenizer_path, (frame.end,))
    tokenizer.save_pretrained(folder / "tokenizer")

    def ids(documents: Iterable[Document]) -> Iterator[tuple[str, list[list[int]]]]:
        rest = iter(documents)
        while chunk := list(_take(rest, _CHUNK_CHARACTERS)):
            texts = iter(ids_of(tokenizer, _texts(chunk, frame)))
            for name, paragraphs in chunk:
                yield name, list(itertools.islice(texts, len(frame.texts(paragraphs))))

    def write(documents: Iterable[Document], name: str, most: int) -> tuple[int, bool]:
        texts = noted(ids(documents), folder / name / FILE)
        blocks = pack(texts, options.block_length, *frame.ids(tokenizer))
        return write_blocks(blocks, folder / name, len(tokenizer), most)

    check = LeakCheck(options.heldout_fraction, folder, pieces)
    room = options.max_gb * 1e9 // block_bytes(options.block_length, len(tokenizer))
    num_train, cut = write(check.split(stream), "train", int(room))
    if cut:
        say(f"data.max_gb={options.max_gb} is reached: the rest of the text is left out")
    heldout = check.finish()
    num_heldout, is_cut = write(heldout.documents, "heldout", options.max_heldout_blocks)
    if not (num_train and num_heldout) and pieces is None and check.num_characters:
        pieces = pieces_of(check.num_characters, options.heldout_fraction, options.block_length)
        of = (source, options, frame, tokenizer_path)
        return build(*of, folder, progress, say, pieces)
    if frame.between is not None and tokenizer.is_fast:  # a slow one does not tell
        sizes = bytes_of_tokens(tokenizer, _texts(heldout.documents, frame))
        counted = pack(sizes, options.block_length, [0], [0], not is_cut)  # marks have no bytes
        of_blocks = [sum(block) for block in counted][: num_heldout if is_cut else None]
        texts = (text for _, texts in ids(heldout.documents) for text in texts)
        blocks = pack(texts, options.block_length, *frame.ids(tokenizer), True)
        rest = [] if is_cut else list(itertools.islice(blocks, num_heldout, None))
        atomic.write_json(folder / "heldout" / BYTES, {"of_blocks": of_blocks, "rest": rest})
    for name, count in (("training", num_train), ("held-out", num_heldout)):
        if count == 0:
            raise CorpusError(
                f"data.block_length={options.block_length}: the {name} part of "
                f"{options.named} is shorter than one block; give more text, a lower "
                "data.block_length, or another data.heldout_fraction"
            )
    atomic.write_json(
        folder / "report.json",
        {
            "provenance": source.provenance(),
            "vocabulary": len(tokenizer),
            "train_tokens": num_train * options.block_length,
            "heldout_tokens": num_heldout * options.block_length,
            "left_out": [*source.left_out],
            "heldout_pieces": pieces and pieces._asdict(),
            "heldout_paragraphs_kept": heldout.kept,
            "heldout_paragraphs_dropped_as_leaked": heldout.dropped,
            "heldout_8gram_residue": heldout.residue,
            "cut_at_max_gb": cut,
        },
    )


def too_few_tokens(options: Data, frame: Frame) -> str | None:
    """Return the line for a vocabulary that is too small to be trained; None: it is not."""
    if options.tokenizer_kind is not TokenizerKind.bpe:
        return None
    is_of_decoder = _TRAINED[options.tokenizer_kind, frame.end] is bpe.train_tokenizer
    marks = (bpe.MARK, bpe.PADDING) if is_of_decoder else wordpiece.SPECIAL_TOKENS
    return bpe.too_few(options.vocab_size, marks)


def open_tokenizer(path: str, special_tokens: Sequence[str | None]) -> "PreTrainedTokenizerBase":
    """Return a tokenizer that has a token in these roles; raise `CorpusError` without them."""
    from transformers import AutoTokenizer

    if not Path(path).is_dir():
        network.notice_absence()
    elif name := atomic.changed(Path(path), _OF_WEIGHTS):
        raise CorpusError(
            f"tokenizer {path} cannot be opened: {atomic.told(name)}; copy the folder anew, or "
            f"remove {atomic.SUMS} if you have changed it yourself"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False
        )
    except Exception as error:  # whatever the tokenizers library and the hub's client raise
        reason = first_line(error)
        if reason.startswith("Couldn't instantiate the backend"):  # lists what it has tried
            reason = "there is no tokenizer.json"
        raise CorpusError(
            f"tokenizer {path} cannot be opened ({reason}); set data.tokenizer to a folder with "
            "tokenizer.json, or a name on the hub"
        ) from error
    for role in filter(None, special_tokens):
        if getattr(tokenizer, role) is None:
            raise CorpusError(
                f"tokenizer {path} has no {role}, which the task needs; set data.tokenizer to "
                "another"
            )
    return tokenizer


def _texts(documents: Iterable[Document], frame: Frame) -> list[str]:
    return [text for document in documents for text in frame.texts(document.paragraphs)]


def _take(documents: Iterator[Document], max_characters: int) -> Iterator[Document]:
    seen = 0
    for document in documents:
        seen += sum(map(len, document.paragraphs))
        yield document
        if seen >= max_characters:
            return
