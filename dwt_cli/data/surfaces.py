"""The text that tokens stand for, in bytes, whatever a tokenizer's way of writing them.

So tokens of two tokenizers can be compared, and a string be cut into the pieces of either.
A word that begins has a space before it: "Ġthe", "▁the" and WordPiece's "the" are b" the", and
"the" of the first two and "##the" are b"the".
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dwt_cli.base.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_LETTER_OF: dict[int, str] = bytes_to_unicode()  # GPT-2's way to write bytes
_BYTE_OF = {letter: byte for byte, letter in _LETTER_OF.items()}
_SPACE, _BYTE = "▁", re.compile(r"<0x([0-9A-F]{2})>")

_ROLES = {
    "bos_token": "cls_token",
    "cls_token": "bos_token",
    "eos_token": "sep_token",
    "sep_token": "eos_token",
    "pad_token": "",
    "mask_token": "",
    "unk_token": "",
}
"""The roles of special tokens, each with the one that stands in for it."""


class Surfaces:
    """The bytes of a fast tokenizer's ordinary tokens.

    bytes_of: by id. Special tokens stand for no text, and are not among them. Raises `UserError`
    for a tokenizer without such tables; setting: what names it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", setting: str = "tokenizer") -> None:
        if not tokenizer.is_fast:
            raise UserError(
                f"{setting}: its tokenizer is no fast one, and what its tokens stand for is not "
                "known here; choose a model with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        fast: PreTrainedTokenizerFast = tokenizer  # type: ignore[assignment]
        self._backend = fast.backend_tokenizer
        content = json.loads(self._backend.to_str())
        model = content["model"]
        if model.get("end_of_word_suffix"):
            raise UserError(
                f"{setting}: its tokenizer marks the ends of words, which is not known here; "
                "choose another model"
            )
        self._unknown = fast.unk_token_id
        self._is_bytes = _has(content, "ByteLevel")
        self._continuing: str | None = None
        if model["type"] == "WordPiece":
            self._continuing = model["continuing_subword_prefix"]
        added = set(fast.added_tokens_decoder)
        self._numbered = {n for token, n in fast.get_vocab().items() if _BYTE.fullmatch(token)}
        special = set(fast.all_special_ids)
        self.bytes_of: dict[int, bytes] = {
            number: self._surface(token, number in added)
            for token, number in sorted(fast.get_vocab().items(), key=lambda each: each[1])
            if number not in special
        }

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The tokens by what they stand for; of two the first that is not written as a byte."""
        last = sorted(self.bytes_of, key=lambda number: (number in self._numbered, number))
        return {self.bytes_of[number]: number for number in reversed(last)}

    def pieces(self, surface: bytes) -> list[int]:
        """Return the tokens that some bytes of text are read as; empty where none are known.

        A word that begins is not one that goes on. Where the one is not known, the other is taken.
        """
        if found := self._pieces(surface):
            return found
        if surface.startswith(b" "):
            return self._pieces(surface[1:])
        return [n for n in self._pieces(b" " + surface) if self.bytes_of[n] != b" "]

    def by_role(self, theirs: "Surfaces") -> dict[int, list[int]]:
        """Return for each of our special tokens those of theirs with its roles, or its string.

        What begins a text comes before what ends it, where ours does both.
        """
        ours, other = self.tokenizer, theirs.tokenizer
        found: dict[int, dict[int, None]] = {number: {} for number in ours.all_special_ids}
        for role, stand_in in _ROLES.items():
            mine = getattr(ours, f"{role}_id")
            roles = (getattr(other, f"{name}_id") for name in (role, stand_in) if name)
            alike = next((number for number in roles if number is not None), None)
            if mine is None or alike is None or (found[mine] and not stand_in):
                continue  # what ends a text and is padding, too, is no padding in it
            found[mine][alike] = None
        entries: dict[str, int] = other.get_vocab()
        for number, of_role in found.items():
            token: Any = ours.convert_ids_to_tokens(number)
            if not of_role and token in entries:
                of_role[entries[token]] = None
        return {number: [*of_role] for number, of_role in found.items()}

    def _pieces(self, surface: bytes) -> list[int]:
        if (same := self.ids.get(surface)) is not None:
            return [same]
        if self._is_bytes:
            return self._model_s("".join(_LETTER_OF[byte] for byte in surface))
        try:
            text = surface.decode()
        except UnicodeDecodeError:  # a part of a character
            return [self.ids[byte] for each in surface if (byte := bytes([each])) in self.ids]
        if self._continuing is None:
            return self._model_s(text.replace(" ", _SPACE))
        return list(self._words(text))

    def _model_s(self, text: str) -> list[int]:
        """Return what the tokenizer's model makes of its own way of writing, without unknowns."""
        return [each.id for each in self._backend.model.tokenize(text) if each.id != self._unknown]

    def _words(self, text: str) -> Iterator[int]:
        """Yield WordPiece's tokens; without a space before it the first word is one that goes on.

        The longest token comes first, as ever.
        """
        normal = self._backend.normalizer
        text = normal.normalize_str(text) if normal else text
        for word, (start, _) in BertPreTokenizer().pre_tokenize_str(text):
            if start > 0 or _is_alone(word):
                yield from self._model_s(word)
                continue
            rest, found = word.encode(), []
            while rest:
                longest = (n for n in range(len(rest), 0, -1) if rest[:n] in self.ids)
                if not (length := next(longest, 0)):
                    return
                found.append(self.ids[rest[:length]])
                rest = rest[length:]
            yield from found

    def _surface(self, token: str, is_added: bool) -> bytes:
        if byte := _BYTE.fullmatch(token):
            return bytes([int(byte[1], 16)])
        if is_added:
            return token.encode()
        if self._is_bytes:
            return bytes(_BYTE_OF[letter] for letter in token)
        if self._continuing is None:
            return token.replace(_SPACE, " ").encode()
        if token.startswith(self._continuing):
            return token.removeprefix(self._continuing).encode()
        return (token if _is_alone(token) else f" {token}").encode()


def _is_alone(word: str) -> bool:
    """Return whether BERT cuts off a sign, with or without a space before it."""
    return len(BertPreTokenizer().pre_tokenize_str(f"a{word}")) > 1 and len(word) == 1


def _has(content: Any, kind: str) -> bool:
    """Return whether a part of a tokenizer, or one inside it, is of a type."""
    parts = [content.get(name) or {} for name in ("pre_tokenizer", "decoder")]
    inner = [each for part in parts for each in part.get("pretokenizers", part.get("decoders", []))]
    return any(part.get("type") == kind for part in [*parts, *inner])
