"""Documentation strings as English prose: what a reader would read aloud of them.

Code, doctests, tables, directives, headings, signatures and formulas are left out.
"""

import html
import re
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise

_WORDS = re.compile(r"\w+")


def duplicate_key(paragraph: str) -> bytes:
    """Return what is equal for paragraphs that differ in case, spacing, digits or names only.

    "The bare BertModel outputs ..." and "The bare GPT2Model outputs ..." are one paragraph.
    """
    words = [
        word.lower() if word.isalpha() and (word[1:].islower() or len(word) == 1) else "0"
        for word in _WORDS.findall(paragraph)
    ]
    return blake2b(" ".join(words).encode(), digest_size=8).digest()


_RULE = re.compile(r"([=\-~^\"'#*+.`:_])\1{2,}\Z|[=\-+|: ]{4,}\Z")
_BULLET = re.compile(r"(?:[-*+•]|\(?(?:\d{1,2}|[a-z]|#)[.)])\s+")
_FIELD = re.compile(
    r"""(?:
      :(?:param|parameter|arg|argument|key|keyword|raises?|except|returns?|yields?|ivar|cvar|var)
        \b[^:]*:
      |@(?:param|return|raises?)\b:?\s*\w*
      |\*{0,2}[`"']*[\w.*/\-]+[`"']*\*{0,2}(?:\s*\((?:[^()]|\([^()]*\))*\))?\s*(?::(?!:)|--)
    )(?:\s+|\Z)""",
    re.VERBOSE,
)
"""The name before a description: `:param x: `, `x (int, *optional*): `, `x -- `, `x : `."""
_TYPE_FIELD = re.compile(r":(?:r?type|vartype|meta)\b")
_TERM = re.compile(r".*(?:\s:\s|\(`|:\Z|\)\Z)|\S+(?:,?\s+\S+){0,3}\Z")
"""The line above an indented description, as in numpy's `x : array_like`."""
_HEADING = re.compile(r"[A-Z][a-z]+:\Z|:r?type\b")
"""Google's `Args:`, Sphinx' `:type x: int`: no part of the paragraph above."""
_TYPED = re.compile(r"\S+(?:,\s+\S+)*\s:(?:\s+\S+){1,8}\Z")
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+)::\s*(.*)")
_VERSIONED = ("deprecated", "versionadded", "versionchanged", "versionremoved")
_PROSE_DIRECTIVES = (
    *("admonition", "attention", "caution", "danger", "hint", "important", "note", "seealso"),
    *("tip", "topic", "warning"),
    *_VERSIONED,
)


_DOCTEST = (">>>", "In [", "Out[", "$ ", "% ", "# ")
_TABLE = ("|", "+-", "+=", "<!--")


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a dedented documentation string that are English prose."""
    for lines in _paragraphs(text):
        paragraph = _plain(" ".join(lines))
        if _is_prose(paragraph):
            yield paragraph


def _paragraphs(text: str) -> Iterator[list[str]]:
    """Yield paragraphs in lines, without code, tables, directives, headings and signatures."""
    lines = text.expandtabs().splitlines()
    indented = [(len(line) - len(line.lstrip()), line.strip()) for line in lines]
    paragraph: list[str] = []
    margin = 0  # of the paragraph's last line
    hanging = False  # the paragraph's further lines may be indented deeper than its first
    fenced = False
    until_blank = False  # inside a doctest or a table
    deeper_than: int | None = None  # skip the block that is indented deeper than this

    for (indent, line), (next_indent, following) in pairwise([*indented, (0, "")]):
        is_fence = line.startswith("```")
        skipped = until_blank or (deeper_than is not None and indent > deeper_than)
        if not is_fence and (fenced or (line and skipped)):
            continue
        ended, paragraph = paragraph, []
        if is_fence:
            fenced = not fenced and not (len(line) > 5 and line.endswith("```"))
        elif not line:
            until_blank = False
        elif line.startswith(_DOCTEST):
            until_blank = not line.startswith("#")
        elif _RULE.match(line):
            ended = ended[:-1]  # the heading above the rule
            until_blank = " " in line or line.startswith(("+", "|"))
        elif line.startswith(_TABLE):
            pass
        elif line == ".." or line.startswith(".. "):
            directive = _DIRECTIVE.match(line)
            name, rest = directive.groups() if directive else ("", "")
            deeper_than = None if name in _PROSE_DIRECTIVES else indent
            if name in _VERSIONED:
                rest = rest.partition(" ")[2]
            if rest and deeper_than is None:
                paragraph, margin, hanging = [rest], indent, True
        else:
            bullet = _BULLET.match(line)
            continues = bool(ended) and not bullet and (indent == margin or hanging)
            if continues and hanging and indent <= margin:
                continues = indent == margin and not _FIELD.match(line)
            if continues and not _HEADING.match(line):
                paragraph, ended = [*ended, line], []
                # after the second line of a hanging paragraph the margin is fixed
                hanging = hanging and indent == margin
            else:
                opening = _opening(line, bool(following) and next_indent > indent)
                paragraph = [opening] if opening else []
                hanging = bool(bullet) or opening != line
            margin = indent
            deeper_than = indent if line.endswith("::") else None
        if ended:
            yield ended
    if paragraph:
        yield paragraph


def _opening(line: str, above_indented: bool) -> str:
    """Return what the first line of a paragraph says, without bullet and field name."""
    if _TYPE_FIELD.match(line):
        return ""
    bullet = _BULLET.match(line)
    if bullet:
        line = line[bullet.end() :]
    field = _FIELD.match(line)
    if above_indented and not bullet and (_TYPED if field else _TERM).match(line):
        return ""
    return line[field.end() :] if field else line


def _code_text(match: re.Match[str]) -> str:
    """`~a.b.C` is C, `the text <target>` is the text, `!x` is x."""
    text = match.group(1)
    if text.startswith("~"):
        return text.rpartition(".")[2].lstrip("~")
    if text.endswith(">") and "<" in text:
        title = text[: text.rindex("<")].strip()
        return title or text[1:-1]
    return text.lstrip("!")


_MATH = re.compile(r":math:`[^`]*`|\$[^$\s][^$]*\$|\\\(.*?\\\)|\\[a-zA-Z]{2,}")
_ESCAPE = re.compile(r"\\([*_`|<>\[\]])")
_MARKUP: tuple[tuple[str, str, str | Callable[[re.Match[str]], str]], ...] = (
    ("`", r"\[`([^`]*)`\]", r"`\1`"),
    ("`", r":[a-zA-Z][\w:.+-]*:(?=`)", ""),
    ("`", r"`{1,2}([^`]+)`{1,2}(?:__?\b)?", _code_text),
    ("](", r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?:[^()\s]|\([^()]*\))*\)", r"\1"),
    ("://", r"\s*(?:\(|<)(?:see |from )?(?:https?|ftp)://[^\s()<>]*(?:\)|>)", ""),
    ("<", r"</?[a-zA-Z][^<>]*>", ""),
    ("[", r"\s?\[(?:\d+|#\w*|[A-Z][\w+-]*\d{2,4}\w?)\]_?(?!\()", ""),
    ("*", r"(?<![\w*])(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1(?![\w*])", r"\2"),
)
"""A sign, a pattern that has it, and what is put in its place. Looked for are the signs alone
first: it makes 5 microseconds for a paragraph out of 20."""
_SUSPECT = re.compile(r"[=<>\\{}$#|\[/&;\0]|\)\.|www")
_SENTENCE_END = re.compile(r"(?<=[a-z\d)\]\"'][.!?])\s+(?=[A-Z])")
_CODE_LIKE = re.compile(
    r"https?://|www\.|\\|\w\(\S*\)\.|[{}<>=]{2}|[\w)\]]=[\w\"'(\[{-]|\w\[\S*\]\[|->|=>|\$\w|\x00"
    r"|;\s*$|\|\||&&|\s[=<>]\s.*\s[=<>]\s|#\s|\s/\s.*\s/\s|[{}]"
)


def _plain(text: str) -> str:
    """Return a paragraph without markup, and without sentences of formulas, addresses or code."""
    if "$" in text or "\\" in text or ":math:" in text:
        text = _ESCAPE.sub(r"\1", _MATH.sub("\0", text))
    for sign, pattern, plain in _MARKUP:
        if sign in text:
            text = re.sub(pattern, plain, text)
    text = html.unescape(text)
    text = " ".join(text.replace("``", '"').replace("::", ":").split())
    if _SUSPECT.search(text) and _CODE_LIKE.search(text):
        text = " ".join(s for s in _SENTENCE_END.split(text) if not _CODE_LIKE.search(s))
    return text


_COMMON_WORDS = (
    "a an and any are as at be been but by can do does each for from has have if in into is it "
    "its may more must no not of on only or other should so such than that the their them then "
    "there these they this to use used using was we when where whether which will with you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_WORD = re.compile(r"[(\"'\[]*[A-Za-z]+(?:[-'’/][A-Za-z]+)*[.,;:!?)\"'\]]*\Z")


def _is_prose(text: str) -> bool:
    """Return whether it has 5 words, nearly all of them plain ones, enough of them common."""
    if len(text) < 20 or not (text[0].isalnum() or text[0] in "\"'("):
        return False
    words = text.split(" ")
    count = len(words)
    if count < 5:
        return False
    ended = text.endswith((".", "!", "?", ":", '."', ".)"))
    if not ended and (count < 7 or text[0].islower()):
        return False
    plain = count - list(map(_WORD.match, words)).count(None)
    if plain < (0.75 if ended else 0.85) * count:
        return False
    common = sum(map(_COMMON.__contains__, text.lower().split(" ")))
    return common >= max(1, 0.14 * count)
