"""Documents: Jinja templates, which lie beside the modules that fill them in."""

from typing import Any


def filled(package: str, template: str, **values: Any) -> str:
    """Return a template of a package with these values in it; a value that is missing raises.

    In a page (``.html.j2``) values are text, and markup in them is shown as it is written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # most commands write none

    jinja = Environment(
        loader=PackageLoader(package, ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
    )
    return jinja.get_template(template).render(values)
