"""Tokenizers of three kinds, trained on a text with all that is written otherwise in them."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dwt_cli.data import bpe
from dwt_cli.data import tokenizer as wordpiece
from dwt_cli.data.source import no_progress
from tests.conftest import Sentences

TEXTS = [text for each in Sentences(20).documents(no_progress) for text in each.paragraphs]
ODD = "Bark's caf\u00e9, (naïve) 中文 belin-ossa \U0001f600. 12345 Elin?"


@cache
def byte_level(size: int = 330) -> PreTrainedTokenizerFast:
    return bpe.train_tokenizer([*TEXTS, ODD], size, 64)


@cache
def masked_bytes(size: int = 330) -> PreTrainedTokenizerFast:
    return bpe.train_with_masks([*TEXTS, ODD], size, 64)


@cache
def pieces(size: int = 120) -> PreTrainedTokenizerFast:
    """WordPiece, lower-cased."""
    return wordpiece.train_tokenizer([*TEXTS, ODD.replace("\U0001f600", "")], size, 64)


@cache
def metaspace(size: int = 400) -> PreTrainedTokenizerFast:
    """A unigram model with bytes for what it lacks, as SentencePiece's."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    whole = made.to_str().replace('"byte_fallback":false', '"byte_fallback":true')
    made = Tokenizer.from_str(whole)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
