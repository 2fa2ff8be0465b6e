"""A byte-level BPE vocabulary from text, as GPT-2's: any text comes back byte for byte."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dwt_cli.base.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK, PADDING = "<|endoftext|>", "<|padding|>"
"""Ids 0 and 1. The mark ends a document and begins every block; padding is for batches of texts."""

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_FEWEST = 2 + len(_ALPHABET)


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, max_length: int
) -> "PreTrainedTokenizerFast":
    """Train on the texts. A small corpus may end up with fewer than ``vocab_size`` entries.

    Raises `UserError` for a size below that of the alphabet.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(texts, vocab_size),
        model_max_length=max_length,
        bos_token=MARK,
        eos_token=MARK,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def byte_level_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Return what the texts give, which is the same with any number of threads."""
    if vocab_size < _FEWEST:
        raise UserError(
            f"data.vocab_size={vocab_size}: a byte-level vocabulary has 256 bytes and 2 marks "
            f"before its first merge; set scale.vocab_size={_FEWEST} or more"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[MARK, PADDING],
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe
