"""A WordPiece vocabulary from text, as BERT's: lower-cased, with five special tokens."""

from collections import Counter
from collections.abc import Sequence

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_MAX_CHARACTERS = 1000  # rarer ones are [UNK]


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train on the texts. A small corpus may end up with fewer than ``vocab_size`` entries."""
    wordpiece = _wordpiece(_vocabulary(texts, vocab_size))
    cls, sep = (SPECIAL_TOKENS.index(token) for token in ("[CLS]", "[SEP]"))
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text's tokens, without special tokens around them."""
    ids: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,  # a "[MASK]" in the text is text
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return ids


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    wordpiece = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.decoder = decoders.WordPiece()
    return wordpiece


def _vocabulary(texts: Sequence[str], vocab_size: int) -> dict[str, int]:
    """Return the same vocabulary for the same texts.

    The trainer by itself numbers the ##-pieces of one character in the order of a hash map, and
    breaks ties between merges by these numbers (huggingface/tokenizers#1794). It keeps the order
    of what it is given beforehand, so it is given all of them.
    """
    wordpiece = _wordpiece({})
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    normalised: Counter[str] = Counter()
    for character, count in counts.items():
        for part in wordpiece.normalizer.normalize_str(character).split():
            normalised.update(dict.fromkeys(part, count))
    commonest = sorted(normalised, key=lambda character: (-normalised[character], character))
    room = (vocab_size - len(SPECIAL_TOKENS)) // 2  # each character alone, and as a ##-piece
    alphabet = sorted(commonest[: min(_MAX_CHARACTERS, room)])
    inside = [f"##{character}" for character in alphabet if _joins(wordpiece, character)]
    wordpiece.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS + inside,
            show_progress=False,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
        ),
    )
    vocabulary: dict[str, int] = wordpiece.get_vocab()
    return vocabulary


def _joins(wordpiece: Tokenizer, character: str) -> bool:
    """Return whether a word may go on with this character: no sign, no ideograph."""
    text = wordpiece.normalizer.normalize_str(f"a{character}")
    return len(wordpiece.pre_tokenizer.pre_tokenize_str(text)) == 1
