"""What people wrote, put into pages so that it stays text: one owner for Markdown; HTML is escaped by jinja2 itself.

A template's values are escaped unless they are `Markdown` already. Names of trials, tasks, metrics, labels, folders and
rivals are all somebody's: none of them is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """`value` as one line of text in CommonMark or GitHub's Markdown: also in a cell of a table, a heading, an item.

    White space becomes single spaces. What has no meaning where it stands is left: an underscore inside a word,
    brackets that begin no link.
    """
    return value if isinstance(value, Markdown) else _escape(str(value), r"[\\`*|~$]|\](?=[(\[:])|^\[")


def code(text: str) -> Markdown:
    """`text` as code within a line, whatever it holds."""
    line = " ".join(text.split())
    # One more than the longest run inside: no other fence is sure not to be ended by the text.
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    inner = f" {line} " if line[:1] == "`" or line[-1:] == "`" else line
    return Markdown(f"{fence}{inner}{fence}")


def image(alt: str, path: str) -> Markdown:
    """A picture and what it shows in words."""
    words = _escape(alt, r"[\\`*|~$\[\]]")
    return Markdown(f"![{words}]({quote(path)})")


def _escape(value: str, always: str) -> Markdown:
    text = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", value).split())
    text = re.sub(always, r"\\\g<0>", text)
    text = re.sub(r"&(?=[#\w])", "&amp;", text).replace("<", "&lt;")
    # Inside a word an underscore means nothing, and names of files and metrics are full of them.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    # What would begin a block of its own at the start of an item, or end a heading at its end.
    text = re.sub(r"^(?:>|[-+](?= |$)|#+(?= |$)|=+$|-{2,}$|\+{2,}$)", r"\\\g<0>", text)
    text = re.sub(r"^(\d{1,9})([.)])(?= |$)", r"\1\\\2", text)
    return Markdown(re.sub(r"(?<= )#+$", r"\\\g<0>", text))


def fenced(text: str, language: str = "") -> Markdown:
    """`text` as a block of code, whatever it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numeric: Iterable[str] = ()) -> Markdown:
    """A table in GitHub's Markdown; columns named in `numeric` are set to the right."""
    right = frozenset(numeric)
    rule = [Markdown("---:" if name in right else "---") for name in header]
    lines = ("| " + " | ".join(map(escape, row)) + " |" for row in (header, rule, *rows))
    return Markdown("\n".join(lines))


def markdown_templates(folder: Path) -> Environment:
    """Templates in `folder` whose values are escaped for Markdown."""
    return _environment(folder, autoescape=False, finalize=escape)


def html_templates(folder: Path) -> Environment:
    """Templates in `folder` whose values are escaped for HTML."""
    return _environment(folder, autoescape=True)


def _environment(folder: Path, **options: Any) -> Environment:
    found = Environment(
        loader=FileSystemLoader(folder),
        # A name that is misspelt in a template is an error in its tests, not a gap in somebody's report.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    found.filters["fenced"] = fenced
    return found
