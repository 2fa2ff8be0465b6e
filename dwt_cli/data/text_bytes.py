"""The bytes of a text that each of its tokens stands for: what bits per byte are counted over."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from dwt_cli.data.pack import pack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def bytes_of_blocks(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], block_length: int, num_blocks: int
) -> list[int]:
    """Return the UTF-8 bytes of the text in each of the blocks that the texts are packed into.

    A block begins with one mark, and a text ends with one; marks stand for no bytes.
    """
    blocks = pack(bytes_of_tokens(tokenizer, texts), block_length, [0], [0])
    return [sum(block) for block in islice(blocks, num_blocks)]


def bytes_of_tokens(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]
) -> Iterator[list[int]]:
    """Yield the number of bytes of each token of a text; they add up to all of the text's.

    What a tokenizer leaves out counts with the token after it, or the last one.
    """
    for text in texts:
        spans = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )["offset_mapping"]
        # several tokens of one character all span it: the first one has its bytes
        ends, end = [], 0
        for _, to in spans:
            end = max(end, to)
            ends.append(end)
        if ends:
            ends[-1] = len(text)
        starts = [0, *ends[:-1]]
        yield [len(text[a:b].encode()) for a, b in zip(starts, ends, strict=True)]
