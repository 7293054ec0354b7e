"""Whatever people write stays text."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from autopeft.markup import Markdown, code, escape, fenced, image, markdown_templates, table

NASTY = [
    "<script>alert(1)</script>", "a|b", "a\nb\n\n# c", "`code`", "```", "*x* **y** _z_ __w__", "[a](http://b)",
    "![a](b)", "[a]: http://b", "[ ] task", "[a][b]", "]", "- item", "+ item", "1. item", "1) item", "# head",
    "tail ##", "> quote", "---", "===", "&lt;", "&#60;", "\\", "\\|", "a\\", "~~s~~", "$x$", "snake_case_name", "_lead",
    "trail_", "<!-- -->", "\x00\x1b[31m", "http://a.b", "", " ", "|", "a & b", "a  \nb", "\\[a](b)", "\\](b)",
]  # fmt: skip

# Everything that a file or a terminal can hold, with what means something in Markdown more often than by chance.
ODD = st.sampled_from(list("\\`*_[]()#+-.!|<>&~$:=\n 1a;x"))
texts = st.text(st.one_of(ODD, st.characters(exclude_categories=["Cs"])))


def plain(text: str) -> str:
    """`text` as a reader should see it."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def render(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def seen(page: str) -> str:
    """The text of rendered Markdown that holds no markup but what is taken off here."""
    return " ".join(html.unescape(page).split())


def check(text: str) -> None:
    cell = render(table(["what", "n"], [[text, "1"]], ["n"]))
    row = r"<tr>\s*<td>(.*)</td>\s*<td[^>]*>1</td>\s*</tr>"
    found = re.fullmatch(rf"<table>.*<tbody>\s*{row}\s*</tbody>\s*</table>\s*", cell, re.S)
    assert found, cell
    assert "<" not in found[1], cell
    assert seen(found[1]) == plain(text)
    for page, tag in ((f"* {escape(text)}\n", "li"), (f"# {escape(text)}\n", "h1")):
        shown = render(page)
        inner = re.fullmatch(rf"(?:<ul>\s*)?<{tag}>(.*)</{tag}>\s*(?:</ul>\s*)?", shown, re.S)
        assert inner, shown
        assert "<" not in inner[1], shown
        assert seen(inner[1]) == plain(text)

    shown = render(f"{image(text, 'a picture.png')}\n")
    alt = re.fullmatch(r'<p><img src="a%20picture.png" alt="(.*)" /></p>\s*', shown, re.S)
    assert alt, shown
    assert seen(alt[1]) == plain(text)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_stay_text(text: str) -> None:
    check(text)


@given(texts)
def test_any_text_stays_text_in_a_cell_an_item_and_a_heading(text: str) -> None:
    check(text)


@given(texts)
def test_any_text_stays_text_in_a_block_of_code(text: str) -> None:
    text = "".join(c for c in text if c.isprintable() or c == "\n")
    shown = render(fenced(text) + "\n")
    assert shown.startswith("<pre><code>")
    assert html.unescape(shown.removeprefix("<pre><code>").removesuffix("</code></pre>\n")) == text + "\n"


@given(texts.filter(lambda text: plain(text) != ""))
def test_any_text_stays_text_in_code_within_a_line(text: str) -> None:
    text = plain(text)
    shown = render(f"It is {code(text)}.\n")
    found = re.fullmatch(r"<p>It is <code>(.*)</code>\.</p>\s*", shown, re.S)
    assert found, shown
    assert html.unescape(found[1]) == text


def test_plain_words_are_left_alone() -> None:
    for text in (
        "train_limit",
        "0.5 %, -3.2",
        "lora=2@q[1,2]",
        "a > b & c",
        "serial 3 · layers 1,2",
        "(a) b!",
        "C# and F#",
    ):
        assert escape(text) == text


def test_templates_escape_what_is_not_markdown_already(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# {{ title }}\n\n{{ ready }}\n")
    page = markdown_templates(tmp_path).get_template("page.md").render(title="*<b>*", ready=Markdown("**x**"))
    assert page == "# \\*&lt;b>\\*\n\n**x**\n"
