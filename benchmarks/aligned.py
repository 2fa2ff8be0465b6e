"""How many tokens of two tokenizers end at the same place of a text, and what it takes to find out.

The time is that of the processor for a block, on which other work has little influence. Without
--ours and --theirs tokenizers of three kinds are trained on the text, in pairs as a student and its
teacher might have them. Blocks are as a decoder reads them.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from provenance import provenance
from timing import SMOKE
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dwt_cli.data import bpe
from dwt_cli.data import tokenizer as wordpiece
from dwt_cli.data.docs import Docs
from dwt_cli.data.files import Files
from dwt_cli.data.pack import pack
from dwt_cli.data.source import no_progress
from dwt_cli.data.spans import Spans
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import ids_of

_LENGTH, _ANY = 128, 1 << 30
_COLUMNS = "| ours | theirs | ours aligned | theirs aligned | bytes between | CPU ms |"


def main() -> None:
    options = _options()
    source = Files(options.text) if options.text else Docs([])
    documents = islice(source.documents(no_progress), options.documents)
    texts = ["\n".join(document.paragraphs) for document in documents]
    sample = "".join(texts)[: options.sample].split("\n")
    lines = [_COLUMNS, "| --- | --- | ---: | ---: | ---: | ---: |"]
    for names, ours, theirs in _pairs(options, sample):
        figures = _measured(ours, theirs, texts, options.blocks)
        lines.append(f"| {' | '.join((*names, *figures))} |")
    print(*([SMOKE] if options.quick else []), *lines, "", *provenance(), sep="\n")


def _measured(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, texts: list[str], most: int
) -> tuple[str, ...]:
    """Return the shares of tokens that end together, and two means, for blocks of ours."""
    surfaces = Surfaces(ours)
    spans, mark = Spans(surfaces, Surfaces(theirs), _ANY), [ours.all_special_ids[0]]
    blocks_BL = np.array([*islice(pack(ids_of(ours, texts), _LENGTH, mark, mark), most)])
    started = time.process_time()
    readings = [each for block_L in blocks_BL for each in spans.read(block_L[None])]
    seconds = time.process_time() - started
    together = sum(len(each.ours_A) for each in readings)
    num_bytes = sum(len(surfaces.bytes_of.get(int(n), b"")) for n in blocks_BL.flat)
    return (
        f"{together / blocks_BL.size:.1%}",
        f"{together / sum(len(each.ids_T) for each in readings):.1%}",
        f"{num_bytes / together:.2f}",
        f"{1000 * seconds / len(blocks_BL):.2f}",
    )


def _pairs(
    options: argparse.Namespace, texts: list[str]
) -> Iterator[tuple[tuple[str, str], PreTrainedTokenizerBase, PreTrainedTokenizerBase]]:
    if options.ours and options.theirs:
        names = options.ours, options.theirs
        opened = [AutoTokenizer.from_pretrained(name) for name in names]
        last = [Path(name).name for name in names]
        yield (last[0], last[1]), opened[0], opened[1]
        return
    small, large = (1000, 2000) if options.quick else (8192, 32768)
    bytes_small = bpe.train_tokenizer(texts, small, _LENGTH)
    of_small = f"byte-level BPE {small:,}"
    yield (
        (of_small, f"byte-level BPE {large:,}"),
        bytes_small,
        bpe.train_tokenizer(texts, large, _LENGTH),
    )
    pieces = wordpiece.train_tokenizer(texts, small, _LENGTH)
    yield (of_small, f"WordPiece {small:,}, lower-cased"), bytes_small, pieces
    yield (of_small, f"unigram {small:,}, metaspace"), bytes_small, _unigram(texts, small)


def _unigram(texts: list[str], size: int) -> PreTrainedTokenizerBase:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    named = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", help="a folder or a quoted glob; the embedded text")
    parser.add_argument("--ours", help="a folder with a tokenizer, or a name on the hub")
    parser.add_argument("--theirs", help="the other one")
    parser.add_argument("--documents", type=int, help="of the text; all by default")
    parser.add_argument("--sample", type=int, default=8_000_000, help="characters to train on")
    parser.add_argument("--blocks", type=int, default=2000, help="of 128 tokens of ours")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    return parser.parse_args()


if __name__ == "__main__":
    main()
