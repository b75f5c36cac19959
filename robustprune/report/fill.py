"""Fill the templates of pages, with every value escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustprune.run.terminal import printable

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(template: str, context: Mapping[str, object]) -> str:
    """Fill a template of `templates/`. Every value is escaped."""
    environment = _environment(autoescape=True)
    return environment.get_template(template).render(context)


def render_markdown(template: str, context: Mapping[str, object]) -> str:
    """Fill a template of `templates/`. Every value is escaped for Markdown."""
    # Values are escaped for Markdown by `finalize`, so the escaping for HTML is off.
    environment = _environment(autoescape=False, finalize=_escaped, keep_trailing_newline=True)
    environment.filters["fenced"] = _fenced
    return environment.get_template(template).render(context)


def _environment(**options: Any) -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _escaped(value: object) -> object:
    return escape_markdown(value) if isinstance(value, str) else value


def escape_markdown(value: str) -> str:
    """Escape a value so that it can't end its table cell, make a link or bring in HTML."""
    if isinstance(value, Markup):
        return value
    line = printable(re.sub(r"[\r\n]+", " ", value))
    text = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\|`*]|\](?=[(\[:])", r"\\\g<0>", text)


def _fenced(text: str) -> Markup:
    """Return a code block whose fence is longer than any sequence of backticks inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text.rstrip()}\n{fence}")
