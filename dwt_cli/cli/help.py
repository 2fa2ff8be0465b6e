"""``--help`` of each command: what the command does, what can be chosen, where things go."""

import textwrap
from collections.abc import Collection
from pathlib import Path

from dwt_cli.config import files

_PRIMARY: dict[str, tuple[str, Collection[str] | None]] = {
    "dwt-train": ("config", None),
    "dwt-advise": ("advise", None),
    "dwt-eval": ("evaluate", ("eval", "data", "task", "scale", "train", "tracker", "launch")),
}
"""The config that each command composes, and the groups that it heeds; None: all."""


def text(program: str) -> str:
    """Return the help text of a command: a line for each choice, the default ones marked."""
    primary, known = _PRIMARY[program]
    chosen, groups = files.defaults(primary), files.groups()
    lines = []
    for group in [*chosen, *sorted(groups.keys() - chosen.keys())]:
        if known is not None and group not in known:
            continue
        lines.append(f"{group}/")
        for choice in groups[group]:
            mark = "*" if chosen.get(group) == choice else " "
            about = f"  {mark} {choice:<15} {files.about(group, choice)}"
            lines += textwrap.wrap(about, 98, subsequent_indent=" " * 20)
    page = Path(__file__).with_name(f"{program}.txt").read_text("utf-8")
    page = page.replace("{choices}", "\n".join(lines))
    page = page.replace("{chains}", ", ".join(files.chains()))
    return page.replace("{sweeps}", ", ".join(files.sweeps()))
