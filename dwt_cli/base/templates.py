"""Documents: Jinja templates, which lie beside the modules that fill them in."""

import re
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup


def filled(package: str, template: str, **values: Any) -> str:
    """Return a template of a package with these values in it; a value that is missing raises.

    Values are text: markup in them is shown as it is written, in a page (``.html.j2``) and in
    Markdown (``.md.j2``), which has the filters `code` and `fenced`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # most commands write none
    from markupsafe import Markup

    is_page = template.endswith(".html.j2")
    jinja = Environment(
        loader=PackageLoader(package, ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=True,
        finalize=None if is_page else partial(_shown, Markup),
    )
    jinja.filters["code"] = lambda text: Markup(code(text))
    jinja.filters["fenced"] = lambda text, language: Markup(fenced(text, language))
    return jinja.get_template(template).render(values)


def markdown(text: str) -> str:
    """Return a text as Markdown that shows it, in one line and in a table, too."""
    text = " ".join(text.splitlines())
    text = re.sub(r"[\\`*|~]|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<=\])(?=[\[(:])", r"\\\g<0>", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside of a word it is a letter
    return re.sub(r"^(?=#|>|[-+] )", r"\\", text)


def code(text: str) -> str:
    """Return a text as code in a line of Markdown."""
    text = " ".join(text.splitlines())
    marks = "`" * (_longest_marks(text) + 1)
    inside = f" {text} " if "`" in text else text
    return f"{marks}{inside}{marks}"


def fenced(text: str, language: str) -> str:
    """Return a text as a block of code in Markdown."""
    marks = "`" * max(3, _longest_marks(text) + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _longest_marks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _shown(kind: "type[Markup]", value: Any) -> Any:
    """Return a value as Markdown, unless it is."""
    is_text = isinstance(value, str) and not isinstance(value, kind)
    return kind(markdown(value)) if is_text else value
