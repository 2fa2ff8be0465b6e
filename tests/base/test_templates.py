"""Texts as Markdown: what they say is shown, and nothing that they could mean is done."""

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from dwt_cli.base.templates import code, fenced, markdown

ODD = [
    "<script>alert(1)</script>",
    "![x](../../secret.png)",
    "[a](http://b) [a][b] [a]: http://b",
    "a | b \\| c",
    "**bold** *a* _b_ `c` ``d`",
    "# head",
    "- item",
    "&lt;b&gt; &#60; A&B",
    "one\ntwo",
    "weak - alone < 0 > 1, at +0.1 [-0.1, +0.3] with max_steps",
    "~~~",
    "`",
    "",
]


def shown(text: str) -> str:
    """What a page of Markdown shows, without the tags of paragraphs, cells and code."""
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert not re.search(r"<(?!/?(p|table|thead|tbody|tr|td|th|code|pre)\b)", page), page
    return unescape(re.sub(r"<[^>]+>", "", page)).strip()


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_shown_and_does_nothing(text: str) -> None:
    in_line = " ".join(text.split("\n"))
    assert shown(markdown(text)) == in_line
    cells = shown(f"| a | b |\n| --- | --- |\n| {markdown(text)} | next |").split("\n")
    assert [cell for cell in cells if cell][2:] == [*filter(None, [in_line]), "next"]
    assert shown(f"so: {code(text)}") == f"so: {in_line}".strip() or not text
    assert shown(fenced(f"a\n{text}\n```\n~~~", "yaml")) == f"a\n{text}\n```\n~~~"


def test_what_reports_are_full_of_stays_as_it_is() -> None:
    usual = "to_learn: -0.012 [-0.1, +0.3] (n=4), > 33%, < 5%, weak - alone, $x$ 100%"
    assert markdown(usual) == usual
