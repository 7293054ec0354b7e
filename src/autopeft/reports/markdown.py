"""The report as Markdown; pictures are told in words."""

from __future__ import annotations

from pathlib import Path

from autopeft.markup import Markdown, escape, markdown_templates, table
from autopeft.reports.content import ReportData, headline, sections
from autopeft.reports.tables import Table


def markdown(data: ReportData) -> str:
    """The report as one page of GitHub's Markdown. What people wrote stays text."""
    templates = markdown_templates(Path(__file__).parent)
    templates.filters["as_table"] = markdown_table
    page = templates.get_template("page.md.jinja")
    return page.render(data=data, headline=headline(data), sections=sections(data)).rstrip() + "\n"


def markdown_table(shown: Table) -> Markdown:
    """A table in the Markdown of GitHub; numbers to the right, the caption above."""
    text = table(shown.header, shown.rows, shown.numeric)
    return Markdown(f"{escape(shown.caption)}\n\n{text}") if shown.caption else text
