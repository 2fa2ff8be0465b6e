"""A byte-level BPE vocabulary from text, as GPT-2's: any text comes back byte for byte.

For masked models with BERT's special tokens, as RoBERTa's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dwt_cli.base.errors import UserError
from dwt_cli.data.tokenizer import SPECIAL_TOKENS, with_masks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK, PADDING = "<|endoftext|>", "<|padding|>"
"""Ids 0 and 1. The mark ends a document and begins every block; padding is for batches of texts."""

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


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


def train_with_masks(
    texts: Sequence[str], vocab_size: int, max_length: int
) -> "PreTrainedTokenizerFast":
    """Train on the texts as `train_tokenizer`, with BERT's special tokens."""
    return with_masks(byte_level_bpe(texts, vocab_size, SPECIAL_TOKENS), max_length)


def too_few(vocab_size: int, special_tokens: Sequence[str]) -> str | None:
    """Return what to say of a vocabulary with no place for every byte; None: there is place."""
    fewest = len(special_tokens) + len(_ALPHABET)
    if vocab_size >= fewest:
        return None
    return (
        f"data.vocab_size={vocab_size}: a byte-level vocabulary has 256 bytes and "
        f"{len(special_tokens)} marks before its first merge; set scale.vocab_size={fewest} "
        "or more"
    )


def byte_level_bpe(
    texts: Sequence[str], vocab_size: int, special_tokens: Sequence[str] = (MARK, PADDING)
) -> Tokenizer:
    """Return what the texts give, which is the same with any number of threads."""
    if problem := too_few(vocab_size, special_tokens):
        raise UserError(problem)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special_tokens],
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe
