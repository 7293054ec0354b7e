"""The report as one HTML page that stands alone.

Its style and its pictures are inside it and nothing is fetched. It reads in light and dark, prints, and describes every
picture in words. Points of the front say what they are when they are hovered over; two that are chosen are set side by
side by a short script, without which the page lacks nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

from autopeft.markup import html_templates
from autopeft.pictures.canvas import inline_svg, picture, svg
from autopeft.pictures.points import MarkedPicture, Picture
from autopeft.reports.content import ReportData, headline, sections
from autopeft.reports.tables import Table

_LONG = 28
"""Letters from which on a column needs room, or it becomes a tower of single words."""


def html(data: ReportData) -> str:
    """The report as one page that stands alone. Equal data give equal text."""
    folder = Path(__file__).parent
    templates, script = html_templates(folder), (folder / "page.js").read_text(encoding="utf-8")
    templates.filters.update(anchor=_anchor, picture_code=_picture_code, inline=_inline, classes=_classes)
    return templates.get_template("page.html.jinja").render(
        data=data,
        headline=headline(data),
        sections=sections(data),
        script=Markup(script),
        # The page's own script and no other is allowed to run.
        script_digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
    )


def html_table(table: Table) -> str:
    """A table as HTML, every cell escaped; a wide one scrolls by itself."""
    templates = html_templates(Path(__file__).parent)
    templates.filters["classes"] = _classes
    return str(templates.get_template("table.html.jinja").module.table_of(table))  # type: ignore[attr-defined]


def _classes(table: Table) -> list[Markup]:
    """The class of each column's cells: of numbers, of long text, or none."""
    columns = zip(table.header, *table.rows, strict=True)
    long = {column[0] for column in columns if max(map(len, column[1:]), default=0) > _LONG}
    return [
        Markup(' class="n"' if name in table.numeric else ' class="w"' if name in long else "") for name in table.header
    ]


def _picture_code(shown: Picture) -> str:
    return base64.b64encode(svg(picture(shown)).encode()).decode()


def _inline(shown: MarkedPicture) -> Markup:
    return Markup(inline_svg(shown, "marked"))


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
