from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autopeft.errors import SettingsError
from autopeft.objective import reference_point
from autopeft.reports.content import ReportData, caveats, default_reference, headline, sections
from autopeft.reports.html import html, html_table
from autopeft.reports.markdown import markdown, markdown_table
from autopeft.reports.report import as_json, write
from autopeft.reports.rows import RetrainSummary
from autopeft.reports.tables import Table, fact_tables, front_table, records_table, retrained_table
from autopeft.trial import front_of
from sample_trials import failed, measured, retrained, running

_TRIALS = [
    measured(0, 1000, 0.6, history=((0.5, 0.9), (0.6, 0.5))),
    measured(1, 2000, 0.7, origin="saas"),
    failed(2, message="<b>no memory</b>"),
    running(3),
]


def _summary(name: str, *values: float, nominal: int = 2000, split: str = "test", **more: object) -> RetrainSummary:
    return RetrainSummary.from_dict(name, {**retrained(*values, nominal=nominal, split=split), **more})


_BEST = _summary("best", 0.65, 0.66, 0.67)
_LORA = _summary("LoRA", 0.65, 0.66, 0.67, nominal=300, is_baseline=True)


def _data(**changes: object) -> ReportData:
    data = ReportData(
        title="RTE <small> & sure",
        facts={"model": "bert", "budget": None, "trials": 12_345, "recipe": {"lr": 1e-4}},
        trials=_TRIALS,
        command="autopeft search --task 'rte' && echo <done>",
        splits={"search": "validation", "report": "test"},
        retrained=(_LORA, _BEST),
        signal=[{"epochs": 2, "correlation": 0.4}],
    )
    return replace(data, **changes)  # type: ignore[arg-type]


class _Reader(HTMLParser):
    """Collects what is opened, closed, linked and named."""

    _VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        if tag not in self._VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page() -> str:
    return html(_data())


def test_the_page_is_well_formed_and_stands_alone(page: str) -> None:
    reader = _read(page)
    assert page.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in page
    assert not reader.tags & {"link", "iframe", "object"}
    (script,) = re.findall("<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page  # that one and no other may run
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in reader.images)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http://" not in without_pictures
    assert "https://" not in without_pictures


def test_every_link_has_its_target_and_every_picture_its_words(page: str) -> None:
    reader = _read(page)
    assert reader.links
    anchors = {found for found in reader.ids if not found.startswith("marked-")}
    assert {link.removeprefix("#") for link in reader.links if not link.startswith("#marked-")} == anchors
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    # retrained, layers, hypervolume, cloud, learning curves; the front is in the page itself
    assert len(reader.images) == 5
    assert all(len(str(image["alt"])) > 40 for image in reader.images)


def test_points_of_the_front_say_what_they_are_and_who_found_them(page: str) -> None:
    told = [html_module.unescape(text) for text in re.findall('class="point"[^>]*><title>(.*?)</title>', page)]
    assert [text for text in told if text.startswith("#1,")] == [
        "#1, found by saas, seed 7: validation accuracy 0.7000 at 2 %: serial 2 · layer 1"
    ] * 2  # as a dot, and as a point of the front
    values = [json.loads(html_module.unescape(text)) for text in re.findall('data-point="(.*?)"', page)]
    assert {"trial": "#0", "found by": "initial, seed 7"}.items() <= values[0].items()


def test_what_points_say_is_escaped() -> None:
    evil = html(_data(trials=[measured(0, 1000, 0.6, origin='<script>"&'), measured(1, 2000, 0.7)]))
    assert "found by &lt;script&gt;&#34;&amp;, seed 7" in evil
    assert evil.count("<script>") == 1


@pytest.mark.slow
def test_a_page_of_thousands_of_trials_stays_small_and_the_json_has_them_all() -> None:
    many = [measured(i, 1000 + (i * 7919) % 3001, 0.5 + 0.3 * ((i * 104729) % 1999) / 1999) for i in range(3000)]
    data = _data(trials=many)
    page = html(data)
    assert len(page) < 1_000_000
    assert "500 of 3,000 trials, in order: the front, the best and the last." in page
    front = {point.key for point in front_of(many).points}
    assert front == {int(n) for n in re.findall(r"<title>#(\d+), found by", page)}
    assert [trial["number"] for trial in json.loads(as_json(data))["trials"]] == list(range(3000))


def test_pictures_are_whole_svg_files(page: str) -> None:
    for code in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
        text = base64.b64decode(code).decode()
        assert "<svg" in text
        assert text.rstrip().endswith("</svg>")


def test_what_users_write_is_escaped(page: str) -> None:
    assert "<h1>RTE &lt;small&gt; &amp; sure</h1>" in page
    assert "&amp;&amp; echo &lt;done&gt;" in page
    assert "&lt;b&gt;no memory&lt;/b&gt;" in page
    assert "<b>no memory" not in page


def test_equal_data_give_equal_pages(page: str) -> None:
    assert html(_data()) == page


@pytest.mark.parametrize("trials", [[], [running(0)], [failed(0)], [measured(0, 10, 0.5)]])
def test_a_study_of_any_state_can_be_told(trials: list[object]) -> None:
    data = ReportData(title="t", facts={}, trials=trials)  # type: ignore[arg-type]
    _read(html(data))
    assert markdown(data).startswith("# t\n")
    assert json.loads(as_json(data))["title"] == "t"


def test_caveats_name_splits_and_single_seeds() -> None:
    told = " ".join(caveats(_data()))
    assert "single seed, measured as validation accuracy" in told
    assert "The search split is validation." in told
    assert "The report split is test." in told
    assert "optimistic by construction" not in told
    assert "Retrained with a single seed" not in told
    assert "another split" not in " ".join(caveats(_data(retrained=(_BEST,))))


def test_caveats_warn_of_picking_on_the_reported_split_and_of_baselines_on_another() -> None:
    told = " ".join(caveats(_data()))
    assert "a choice made on the split that it is measured on" in told
    assert "Beside the front, these baselines were measured on another split: LoRA (test)." in told


def test_the_headline_prefers_figures_off_the_search_split() -> None:
    told = dict(headline(_data(retrained=(_BEST, _summary("best", 0.9, split="validation")))))
    assert told["0.6600"].startswith("highest of 1 retrained, test accuracy")


def test_caveats_warn_of_reuse_of_the_search_split_and_mixtures() -> None:
    reused = (_summary("best", 0.7, split="validation"),)
    trials = [*_TRIALS, measured(4, 10, 0.1, split="train[:100]")]
    told = " ".join(caveats(_data(retrained=reused, trials=trials, notes=("A remark.",))))
    assert told.startswith("A remark.")
    assert "on validation use the split that the search optimised" in told
    assert "without a standard deviation: best (validation)" in told
    assert "different splits (train[:100], validation)" in told
    assert "No architecture has been retrained" in " ".join(caveats(_data(retrained=())))


def test_tables_of_front_and_retrained_points_give_three_counts_and_the_split() -> None:
    front = front_table(_TRIALS)
    row = dict(zip(front.header, front.rows[1], strict=True))
    assert (row["point"], row["trial"], row["% nominal"], row["validation accuracy"]) == ("2", "#1", "2", "0.7000")
    assert (row["nominal"], row["stored"], row["trained"]) == ("2,000", "2,010", "2,510")
    assert (row["seed"], row["ms a batch"], row["peak MiB"]) == ("7", "20", "1")
    assert "single seed" in front.caption
    table = retrained_table((_LORA, _BEST))
    again = dict(zip(table.header, table.rows[1], strict=True))
    assert (again["mean"], again["std"], again["median"], again["n"]) == ("0.6600", "0.0100", "0.6600", "3")
    assert (again["split"], again["trained"]) == ("test", "2,510")
    single = retrained_table((_summary("best", 0.65),))
    assert "single seed" in single.rows[0]


def test_the_headline_counts_trials_and_names_what_is_best() -> None:
    told = {text: value for value, text in headline(_data())}
    assert told["trials measured, 1 failed, 1 running"] == "2"
    assert told["best validation accuracy, single seed, at 2 %"] == "0.7000"
    assert told["highest of 2 retrained, test accuracy, ± 0.0100, 3 seeds"] == "0.6600"
    assert told["from first start to last end"] == "33 min 50 s"  # from 0 to 2030 s, the end of the failed trial


def test_facts_become_tables() -> None:
    plain, recipe, sweep = fact_tables(
        {
            "model": "bert",
            "n": 12_345,
            "none": None,
            "seeds": [0, 1],
            "recipe": {"lr": 1e-4},
            "sweep": [{"a": 1}, {"b": 2}],
        }
    )
    assert plain.rows == (("model", "bert"), ("n", "12,345"), ("none", "none"), ("seeds", "0, 1"))
    assert (recipe.header, recipe.rows) == (("recipe", "value"), (("lr", "0.0001"),))
    assert (sweep.header, sweep.rows, sweep.caption) == (("a", "b"), (("1", ""), ("", "2")), "sweep")
    assert records_table([{"x": 1.5, "name": "y"}]).numeric == {"x"}


def test_tables_escape_bars_and_markup() -> None:
    table = Table(("a|b", "n"), (("<i>x</i>\nline", "1"),), "What", frozenset({"n"}))
    lines = markdown_table(table).splitlines()
    assert lines == ["What", "", "| a\\|b | n |", "| --- | ---: |", "| &lt;i>x&lt;/i> line | 1 |"]
    told = html_table(table)
    assert '<td class="n">1</td>' in told
    assert "&lt;i&gt;x&lt;/i&gt;" in told


def test_json_holds_the_numbers() -> None:
    told = json.loads(as_json(_data()))
    assert [row["number"] for row in told["front"]] == [0, 1]
    assert told["front"][1]["trained"] == 2510
    assert told["retrained"][0]["split"] == "test"
    assert told["retrained"][0]["values"] == [0.65, 0.66, 0.67]
    assert told["failures"] == [{"kind": "oom", "count": 1, "numbers": [2], "message": "<b>no memory</b>"}]
    assert told["timing"]["measuring"] == 201.0
    assert told["hypervolume"]["curves"]["random, saas"]["seeds"] == 1


def test_the_reference_comes_from_the_initial_design_and_the_dearest_trial() -> None:
    assert default_reference([failed(0)]) is None
    assert default_reference(_TRIALS) == reference_point([(1.0, 0.6)], 2.0)
    assert default_reference(_TRIALS[1:]) == reference_point([(2.0, 0.7)], 2.0)


def test_the_reference_stays_where_the_space_is_known() -> None:
    assert default_reference(_TRIALS, 40.0) == reference_point([(1.0, 0.6)], 40.0)
    told = json.loads(as_json(_data(largest=40.0)))
    assert told["hypervolume"]["reference"] == [*reference_point([(1.0, 0.6)], 40.0)]


def test_parts_without_content_are_left_out() -> None:
    titles = [part.title for part in sections(_data(signal=(), retrained=()))]
    assert titles == [
        "Facts",
        "How to read the numbers",
        "Front",
        "Layers and sizes",
        "Search",
        "Learning curves",
        "Failures",
        "Time",
        "Cost",
        "All trials",
    ]


@pytest.mark.parametrize(("name", "start"), [("r.html", "<!DOCTYPE"), ("r.md", "# RTE"), ("r.JSON", "{")])
def test_the_ending_picks_the_form(tmp_path: Path, name: str, start: str) -> None:
    write(_data(), tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_other_endings_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ends in \.html, \.md, \.json, but got 'r\.docx'"):
        write(_data(), tmp_path / "r.docx")
    with pytest.raises(SettingsError, match="does not exist"):
        write(_data(), tmp_path / "no" / "r.html")
