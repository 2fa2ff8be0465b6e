"""Markdown and the pictures beside it -> one HTML page that needs nothing else."""

import base64
import html
from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; max-width: 68rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #bbb; }
img { max-width: 100%; display: block; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { padding: 0.2rem 0.6rem; text-align: left; vertical-align: top;
         border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #777; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
@media print {
  body { font-size: 9.5pt; max-width: none; margin: 0; }
  table { font-size: 7.5pt; }
  .wide { overflow-x: visible; }
  h2 { break-after: avoid; }
  tr, img { break-inside: avoid; }
}
"""


def page(markdown: str, title: str, folder: Path) -> str:
    """The page. Pictures are named relative to `folder`; markup in the text stays text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = reader.parse(markdown)
    parts = (part for token in tokens for part in token.children or ())
    for image in (part for part in parts if part.type == "image"):
        picture = (folder / str(image.attrs["src"])).read_bytes()
        encoded = base64.b64encode(picture).decode("ascii")
        image.attrs["src"] = f"data:image/png;base64,{encoded}"
    body = reader.renderer.render(tokens, reader.options, {})
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )
