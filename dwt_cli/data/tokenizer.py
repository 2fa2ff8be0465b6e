"""A WordPiece vocabulary from text, as BERT's: lower-cased, with five special tokens.

And of any tokenizer what tells it from another, and which bytes its tokens stand for.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from dwt_cli.base.atomic import file_sum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_MAX_CHARACTERS = 1000  # rarer ones are [UNK]

_NO_IDS = {
    *("backend", "chat_template", "clean_up_tokenization_spaces", "is_local", "local_files_only"),
    *("max_length", "model_input_names", "model_max_length", "name_or_path", "pad_to_multiple_of"),
    *("padding", "padding_side", "processor_class", "special_tokens_map_file", "stride"),
    *("tokenizer_file", "transformers_version", "truncation", "truncation_side"),
}
"""What tokenizers' files say that makes no difference to the ids of a text."""


def content(path: str) -> dict[str, Any]:
    """Return what makes a tokenizer's ids: the sums of a folder's files, or a name on the hub.

    Models with one tokenizer have the same content, whatever else lies in their folders.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"name": path}
    config = _json(folder / "tokenizer_config.json")
    found = [config, _json(folder / "special_tokens_map.json"), _json(folder / "added_tokens.json")]
    if "tokenizer_class" not in config:  # the model's type stands for it
        of_model = _json(folder / "config.json")
        found.append({key: of_model.get(key) for key in ("tokenizer_class", "model_type")})
    if (whole := folder / "tokenizer.json").is_file():
        found.append(_json(whole))
    else:
        names = ("*.model", "*vocab*", "merges.txt", "tokenizer.*")
        files = {file for name in names for file in folder.glob(name) if file.is_file()}
        found += [{file.name: file_sum(file)} for file in sorted(files)]
    text = json.dumps(found, sort_keys=True)
    return {"sum": hashlib.sha256(text.encode()).hexdigest()}


def _json(file: Path) -> dict[str, Any]:
    """Return what a file says about ids; nothing where there is no such file."""
    if not file.is_file():
        return {}
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in said.items() if key not in _NO_IDS}


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, max_length: int
) -> "PreTrainedTokenizerFast":
    """Train on the texts. A small corpus may end up with fewer than ``vocab_size`` entries."""
    return with_masks(_wordpiece(_vocabulary(texts, vocab_size)), max_length)


def with_masks(tokenizer: Tokenizer, max_length: int) -> "PreTrainedTokenizerFast":
    """Return a tokenizer whose first ids are `SPECIAL_TOKENS`, framing texts as BERT does."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(each, SPECIAL_TOKENS.index(each)) for each in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        **{f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    )


AS_TEXT = {
    "add_special_tokens": False,
    "split_special_tokens": True,  # a "[MASK]" in the text is text
    "return_attention_mask": False,
    "return_token_type_ids": False,
    "verbose": False,
}


def ids_of(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], special_tokens: bool = False
) -> list[list[int]]:
    """Return the ids of each text's tokens; special_tokens: with those that it adds by itself."""
    asked = AS_TEXT | {"add_special_tokens": special_tokens}
    ids: list[list[int]] = tokenizer(list(texts), **asked)["input_ids"]
    return ids


def numbered_otherwise(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[int, str]:
    """Return the entries of our vocabulary that theirs lacks, or numbers otherwise, by number."""
    return {number: entry for entry, number in ours.items() if theirs.get(entry) != number}


def bytes_of_tokens(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]
) -> Iterator[list[int]]:
    """Yield the UTF-8 bytes that each token of a text stands for; they add up to all of them.

    What a tokenizer leaves out counts with the token after it, or the last one.
    """
    for text in texts:
        spans = tokenizer(text, **AS_TEXT, return_offsets_mapping=True)["offset_mapping"]
        # several tokens of one character all span it: the first one has its bytes
        ends = list(itertools.accumulate((end for _, end in spans), max))
        if ends:
            ends[-1] = len(text)
        yield [len(text[a:b].encode()) for a, b in itertools.pairwise([0, *ends])]


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
    normalise, cut = wordpiece.normalizer.normalize_str, wordpiece.pre_tokenizer.pre_tokenize_str
    # with which a word may go on: no sign, no ideograph
    inside = [f"##{each}" for each in alphabet if len(cut(normalise(f"a{each}"))) == 1]
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
