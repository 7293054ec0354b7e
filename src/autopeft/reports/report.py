"""The report of a study: one content, told as one HTML page, as Markdown and as JSON.

The HTML page stands alone: its style and its pictures are inside it, nothing is fetched and nothing runs. It
reads in light and dark, prints, and describes every picture in words. Every metric is given with the split that
it was computed on, and a single seed is called one.
"""

from __future__ import annotations

import base64
import html as markup
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autopeft.errors import SettingsError
from autopeft.objective import reference_point
from autopeft.pictures.canvas import picture, svg
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.front import front_data
from autopeft.pictures.hypervolume import HypervolumeData, hypervolume_data
from autopeft.pictures.labels import brief, metric_label
from autopeft.pictures.layers import layers_data
from autopeft.pictures.learning import learning_data
from autopeft.pictures.points import Picture
from autopeft.pictures.results import results_data
from autopeft.reports.summary import RetrainSummary, failure_rows, front_rows, search_seconds, timing
from autopeft.trial import Trial, TrialState
from autopeft.writing import whole

_COUNTS_RULE = (
    "Parameters are counted in three ways. Nominal is the papers' rule: weights only. Stored is what is shipped: "
    "biases too, prefixes folded. Trained is what the optimiser holds: the head and prefix networks too. "
    "Percentages are nominal, of the backbone."
)


@dataclass(frozen=True)
class ReportData:
    """Everything that a report tells.

    Args:
        title: the heading, for example ``"RTE, bert-base-uncased"``.
        facts: what was done, JSON-ready: model, task, data, space, budget, sampler and preset, recipe, seeds,
            versions. A mapping or a list of mappings among the values becomes a table of its own.
        trials: every trial, in order of number.
        command: the command that runs it again.
        splits: role ("search", "pick", "report") to the split used for it.
        retrained: architectures trained again on several seeds, baselines among them; see
            `autopeft.reports.summary.retrained_in`.
        signal: the sweep that shows whether a trial says anything: one mapping a learning rate.
        verdict: what the sweep says, in sentences.
        notes: further remarks, put first.
        largest: cost in percent of the largest architecture of the space, a corner of every hypervolume; None takes
            that of the dearest trial.
        is_answering: whether the sampler answers budgets, which decides what its search took; see
            `autopeft.reports.summary.search_seconds`.
    """

    title: str
    facts: Mapping[str, Any]
    trials: Sequence[Trial]
    command: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    retrained: Sequence[RetrainSummary] = ()
    signal: Sequence[Mapping[str, Any]] = ()
    verdict: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    largest: float | None = None
    is_answering: bool = False

    @property
    def baselines(self) -> tuple[RetrainSummary, ...]:
        """What of the literature was trained beside what was found."""
        return tuple(one for one in self.retrained if one.is_baseline)


@dataclass(frozen=True)
class Table:
    """A table of text. Columns named in `numeric` are set to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """A part of the report: paragraphs, then pictures, then tables. A folded one opens on demand."""

    title: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    is_folded: bool = False


# -- content -------------------------------------------------------------------------------------------------


def caveats(data: ReportData) -> tuple[str, ...]:
    """What a reader must know to read the numbers: splits, seeds, and what was optimised on what."""
    measured = [t.measurement for t in data.trials if t.measurement is not None]
    splits = sorted({m.split for m in measured})
    found = list(data.notes)
    if measured:
        found.append(
            f"Every trial, and so every point of the front, is one training run: a single seed, measured as "
            f"{metric_label(data.trials)}. The best of many noisy values is optimistic."
        )
    if len(splits) > 1:
        found.append(f"The trials were measured on different splits ({', '.join(splits)}) and are not comparable.")
    found += [f"The {role} split is {split}." for role, split in data.splits.items()]
    same = sorted({s.split for s in data.retrained} & set(splits))
    if same:
        found.append(
            f"Retrained figures on {', '.join(same)} use the split that the search optimised: they are optimistic "
            "by construction."
        )
    single = [f"{s.name} ({s.split})" for s in data.retrained if s.n == 1]
    if single:
        found.append(f"Retrained with a single seed, so without a standard deviation: {', '.join(single)}.")
    if len(data.retrained) > 1:
        found.append("The highest of several retrained figures is a choice made on the split that it is measured on.")
    if measured and not data.retrained:
        found.append("No architecture has been retrained: there is no figure with several seeds here.")
    other = [f"{b.name} ({b.split})" for b in data.baselines if b.split not in splits]
    if other:
        found.append(f"Beside the front, these baselines were measured on another split: {', '.join(other)}.")
    return tuple(found)


def default_reference(trials: Sequence[Trial], largest: float | None = None) -> tuple[float, float] | None:
    """The reference of the hypervolume: see `objective.reference_point`.

    The initial design is the trials of origin "initial", or all when there is none. None when nothing has been
    measured.

    Args:
        largest: cost in percent of the largest architecture; that of the dearest trial when it is None.
    """
    measured = [(t.origin, m) for t in trials if (m := t.measurement) is not None]
    if not measured:
        return None
    initial = [m for origin, m in measured if origin == "initial"] or [m for _, m in measured]
    dearest = max(m.percent for _, m in measured)
    return reference_point([(m.percent, m.value) for m in initial], dearest if largest is None else largest)


def progress(data: ReportData) -> HypervolumeData | None:
    """The study's curve of hypervolume; None when nothing has been measured."""
    reference = default_reference(data.trials, data.largest)
    return None if reference is None else hypervolume_data({_sampler(data.trials): [data.trials]}, reference)


def _sampler(trials: Sequence[Trial]) -> str:
    return ", ".join(sorted({t.origin for t in trials} - {"initial"})) or "initial design"


def front_table(data: ReportData) -> Table:
    """The front by increasing cost, numbered as in its picture.

    Three counts, metric and split, seed, time, latency and memory of each point.
    """
    rows = tuple(
        (
            str(place),
            f"#{row.number}",
            f"{row.percent:.4g}",
            f"{row.nominal:,}",
            f"{row.stored:,}",
            f"{row.trained:,}",
            f"{row.value:.4f}",
            str(row.seed),
            f"{row.seconds:.4g}",
            f"{row.search_seconds:.4g}",
            f"{1000 * row.latency:.3g}",
            f"{row.peak_memory / 2**20:,.0f}",
            row.origin,
            row.label,
        )
        for place, row in enumerate(front_rows(data.trials, is_answering=data.is_answering), start=1)
    )
    metric = metric_label(data.trials)
    counts = ("% nominal", "nominal", "stored", "trained")
    numbers = ("point", "trial", *counts, metric, "seed", "seconds", "search seconds", "ms a batch", "peak MiB")
    caption = f"Front by increasing cost; {metric}, single seed a row."
    return Table((*numbers, "origin", "architecture"), rows, caption, frozenset(numbers))


def retrained_table(data: ReportData) -> Table:
    """Retrained architectures: mean, standard deviation (n - 1), median, n, split, three counts."""
    rows = tuple(
        (
            s.name,
            f"{s.counts.percent('nominal'):.4g}",
            f"{s.counts.nominal:,}",
            f"{s.counts.stored:,}",
            f"{s.counts.trained:,}",
            s.metric,
            s.split,
            f"{s.mean:.4f}",
            "single seed" if s.std is None else f"{s.std:.4f}",
            f"{s.median:.4f}",
            str(s.n),
            ", ".join(map(str, s.seeds)),
        )
        for s in data.retrained
    )
    header = ("architecture", "% nominal", "nominal", "stored", "trained", "metric", "split", "mean", "std", "median")
    numeric = frozenset(header) - {"architecture", "metric", "split"} | {"n"}
    caption = "Mean, sample standard deviation (n − 1) and median over seeds."
    return Table((*header, "n", "seeds"), rows, caption, numeric)


def trials_table(data: ReportData) -> Table:
    """Every trial with its state."""
    rows = tuple(
        (
            f"#{t.number}",
            t.origin,
            t.state.value if t.failure is None else f"failed: {t.failure.kind}",
            f"{t.measurement.percent:.4g}" if t.measurement else "",
            f"{t.measurement.value:.4f}" if t.measurement else "",
            f"{t.measurement.seconds:.4g}" if t.measurement else "",
            str(t.seed),
            brief(t.architecture),
        )
        for t in data.trials
    )
    header = ("trial", "origin", "state", "% nominal", metric_label(data.trials), "seconds", "seed", "architecture")
    return Table(header, rows, "Every trial, in order", frozenset(header) - {"origin", "state", "architecture"})


def _failures_table(data: ReportData) -> Table:
    found = failure_rows(data.trials)
    rows = tuple((r.kind, str(r.count), ", ".join(f"#{n}" for n in r.numbers), r.message) for r in found)
    return Table(("kind", "count", "trials", "last message"), rows, "", frozenset({"count"}))


def _timing_table(data: ReportData) -> Table:
    spent = timing(data.trials)
    searched = search_seconds(data.trials, is_answering=data.is_answering)
    rows = (
        ("from first start to last end", _duration(spent.wall)),
        ("training and evaluation, summed", _duration(spent.measuring)),
        ("median of one trial", _duration(spent.per_trial)),
        ("failed trials, summed", _duration(spent.failing)),
        ("proposing, summed", _duration(spent.proposing)),
        ("search" + (" (proposing alone)" if data.is_answering else " (all of these)"), _duration(searched)),
        *((f"search / one retraining of {s.name}", f"{searched / s.seconds:.2f}") for s in data.retrained if s.seconds),
    )
    return Table(("time", "spent"), rows, "", frozenset({"spent"}))


def _duration(seconds: float) -> str:
    """``3 h 04 min``, ``5 min 07 s``, ``2.31 s``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def fact_tables(facts: Mapping[str, Any]) -> tuple[Table, ...]:
    """Plain facts in one table, then a table for every mapping and every list of mappings."""
    plain = tuple((key, _fact(value)) for key, value in facts.items() if not _is_table(value))
    tables = [Table(("fact", "value"), plain)] if plain else []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            tables.append(Table((key, "value"), tuple((str(k), _fact(v)) for k, v in value.items())))
        elif _is_table(value):
            tables.append(records_table(value, key))
    return tuple(tables)


def records_table(records: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
    """Mappings as rows; the columns are all their keys, in order of appearance."""
    header = tuple(dict.fromkeys(str(key) for record in records for key in record))
    rows = tuple(tuple(_fact(record[key]) if key in record else "" for key in header) for record in records)
    values = {key: [record[key] for record in records if key in record] for key in header}
    numeric = {key for key, found in values.items() if all(isinstance(v, int | float) for v in found)}
    return Table(header, rows, caption, frozenset(numeric))


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and bool(value) and all(isinstance(item, Mapping) for item in value)


def _fact(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_fact(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_fact, value))
    return str(value)


def headline(data: ReportData) -> tuple[tuple[str, str], ...]:
    """The few numbers that stand at the top: pairs of a value and what it is."""
    done = sum(t.is_complete for t in data.trials)
    running = sum(t.state is TrialState.RUNNING for t in data.trials)
    rows = front_rows(data.trials)
    failed = sum(row.count for row in failure_rows(data.trials))
    tiles = [(str(done), f"trials measured, {failed} failed" + (f", {running} running" if running else ""))]
    if rows:
        best = rows[-1]
        tiles.append((str(len(rows)), "points on the front"))
        tiles.append((f"{best.value:.4f}", f"best {best.split} {best.metric}, single seed, at {best.percent:.3g} %"))
    if data.retrained:
        searched = {t.measurement.split for t in data.trials if t.measurement is not None}
        fresh = [s for s in data.retrained if s.split not in searched] or data.retrained
        top = max(fresh, key=lambda s: s.mean)
        spread = f"± {top.std:.4f}, {top.n} seeds" if top.std is not None else "single seed"
        tiles.append((f"{top.mean:.4f}", f"highest of {len(fresh)} retrained, {top.split} {top.metric}, {spread}"))
    tiles.append((_duration(timing(data.trials).wall), "from first start to last end"))
    return tuple(tiles)


def sections(data: ReportData) -> tuple[Section, ...]:
    """The whole report in order; parts without content are left out."""
    curves, learning = progress(data), learning_data(data.trials)
    found = [one.point for one in data.retrained if not one.is_baseline]
    baselines = [one.point for one in data.baselines]
    metrics = " / ".join(sorted({s.metric for s in data.retrained}))
    parts = [
        Section("Facts", (), (), fact_tables(data.facts)),
        Section("How to read the numbers", (*caveats(data), _COUNTS_RULE)),
        Section("Front", (), (front_data(data.trials, baselines),), (front_table(data),)),
    ]
    if data.retrained:
        shown = (results_data(found, baselines, metric=metrics),)
        parts.append(Section("Retrained architectures", (), shown, (retrained_table(data),)))
    if any(t.measurement for t in data.trials):
        parts.append(Section("Layers and sizes", (), (layers_data(data.trials),)))
        parts.append(Section("Search", (), tuple(p for p in (curves, cloud_data({"study": data.trials})) if p)))
    if learning.curves:
        parts.append(Section("Learning curves", (), (learning,)))
    if data.signal:
        parts.append(Section("Does the proxy have signal?", data.verdict, (), (records_table(data.signal),)))
    failures = _failures_table(data)
    none_failed = () if failures.rows else ("No trial failed.",)
    parts.append(Section("Failures", none_failed, (), (failures,) if failures.rows else ()))
    parts.append(Section("Time", (), (), (_timing_table(data),)))
    parts.append(Section("All trials", (), (), (trials_table(data),), is_folded=True))
    return tuple(parts)


# -- JSON and Markdown ---------------------------------------------------------------------------------------


def as_json(data: ReportData) -> str:
    """The report for machines: facts, caveats, front, retrained points, failures, times, curves."""
    curves = progress(data)
    content = {
        "title": data.title,
        "command": data.command,
        "facts": data.facts,
        "splits": data.splits,
        "caveats": caveats(data),
        "front": [row.as_dict() for row in front_rows(data.trials, is_answering=data.is_answering)],
        "retrained": [summary.as_dict() for summary in data.retrained],
        "failures": [asdict(row) for row in failure_rows(data.trials)],
        "timing": asdict(timing(data.trials)),
        "signal": list(data.signal),
        "hypervolume": curves
        and {
            "reference": curves.reference,
            "curves": {c.name: {"seeds": c.seeds, "mean": c.mean.tolist()} for c in curves.curves},
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def markdown(data: ReportData) -> str:
    """The report as Markdown; pictures are told in words."""
    lines = [f"# {_plain(data.title)}", "", *(f"* **{value}** {text}" for value, text in headline(data)), ""]
    if data.command:
        lines += ["Run it again:", "", "```", data.command, "```", ""]
    for section in sections(data):
        lines += [f"## {section.title}", "", *(f"* {_plain(text)}" for text in section.paragraphs), ""]
        lines += [f"*{_plain(shown.alt)}*\n" for shown in section.pictures]
        for table in section.tables:
            lines += [markdown_table(table), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """A table in the Markdown of GitHub; numbers to the right, the caption above."""
    rule = ["---:" if name in table.numeric else "---" for name in table.header]
    rows = [table.header, rule, *table.rows]
    text = "\n".join("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows)
    return f"{table.caption}\n\n{text}" if table.caption else text


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# -- HTML ----------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --ground: #ffffff;
  --card: #f6f8fa; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4af; --line: #343b44; --ground: #14181d; --card: #1c2229; --accent: #56b4e9; }
  figure img { filter: invert(0.91) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 4rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.8rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); }
.tiles { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 0 0 1.2rem; padding: 0; list-style: none; }
.tiles li { flex: 1 1 10rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.7rem 0.9rem; color: var(--soft); font-size: 0.85rem; line-height: 1.35; }
.tiles b { display: block; color: var(--ink); font-size: 1.45rem; font-variant-numeric: tabular-nums; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem 1rem;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
ul.notes { background: var(--card); border-left: 4px solid var(--accent); border-radius: 0 8px 8px 0; margin: 0;
  padding: 0.8rem 1.2rem 0.8rem 2rem; }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 0.85rem; margin-top: 0.5rem; }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1.2rem 2.4rem; margin: 1rem 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.85rem; }
caption { text-align: left; color: var(--soft); padding: 0 0 0.4rem; }
th, td { padding: 0.35rem 0.5rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
td { overflow-wrap: break-word; max-width: 34rem; }
.w { min-width: 14rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
summary { cursor: pointer; font-size: 1.25rem; font-weight: 600; margin: 2.6rem 0 0.8rem; }
a { color: var(--accent); }
nav { font-size: 0.9rem; margin: 0 0 1.2rem; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: 0.85rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav, details:not([open]) { display: none; }
  figure, tr, .tiles li { break-inside: avoid; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: 0.15rem 0.3rem; } h2 { break-after: avoid; } }
"""


def html(data: ReportData) -> str:
    """The report as one page that stands alone. Equal data give equal text."""
    parts = sections(data)
    title = markup.escape(data.title)
    links = "".join(f'<a href="#{_anchor(part.title)}">{markup.escape(part.title)}</a>' for part in parts)
    tiles = "".join(f"<li><b>{markup.escape(value)}</b>{markup.escape(text)}</li>" for value, text in headline(data))
    command = f"<p>Run it again:</p><pre><code>{markup.escape(data.command)}</code></pre>" if data.command else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{title}</h1>\n<ul class="tiles">{tiles}</ul>\n{command}\n'
        f'<nav aria-label="Sections">{links}</nav>\n</header>\n<main>\n'
        + "\n".join(_html_section(part) for part in parts)
        + "\n</main>\n<footer>Written by autopeft.</footer>\n</body>\n</html>\n"
    )


def _html_section(part: Section) -> str:
    title, anchor = markup.escape(part.title), _anchor(part.title)
    notes = "".join(f"<li>{markup.escape(text)}</li>" for text in part.paragraphs)
    body = (
        (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + "".join(_html_picture(shown) for shown in part.pictures)
        + (f'<div class="tables">{"".join(map(html_table, part.tables))}</div>' if part.tables else "")
    )
    if part.is_folded:
        return f'<details id="{anchor}"><summary>{title}</summary>\n{body}</details>'
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>\n{body}</section>'


def _html_picture(shown: Picture) -> str:
    code = base64.b64encode(svg(picture(shown)).encode()).decode()
    alt = markup.escape(shown.alt, quote=True)
    width = round(96 * shown.size[0])
    return (
        f'<figure><img src="data:image/svg+xml;base64,{code}" width="{width}" alt="{alt}">\n'
        f'<figcaption aria-hidden="true">{alt}</figcaption></figure>\n'
    )


def html_table(table: Table) -> str:
    """A table as HTML, every cell escaped; a wide one scrolls by itself."""
    # A column of long text needs room, or it becomes a tower of single words.
    long = {
        column[0] for column in zip(table.header, *table.rows, strict=True) if max(map(len, column[1:]), default=0) > 28
    }
    marks = [' class="n"' if n in table.numeric else ' class="w"' if n in long else "" for n in table.header]
    head = "".join(f'<th scope="col"{m}>{markup.escape(n)}</th>' for n, m in zip(table.header, marks, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{m}>{markup.escape(c)}</td>" for c, m in zip(row, marks, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    caption = f"<caption>{markup.escape(table.caption)}</caption>" if table.caption else ""
    label = markup.escape(table.caption or ", ".join(table.header), quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
    )


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")


def write(data: ReportData, path: str | Path) -> None:
    """Write the report as HTML, Markdown or JSON, by the ending of `path`.

    Raises:
        SettingsError: the ending is another one, or the folder does not exist.
        WriteError: the file cannot be written; an old one still stands.
    """
    target, renderers = Path(path), {".html": html, ".md": markdown, ".json": as_json}
    render = renderers.get(target.suffix.lower())
    if render is None:
        raise SettingsError(f"A report ends in {', '.join(renderers)}, but got {target.name!r}.")
    if not target.parent.is_dir():
        raise SettingsError(f"The folder {str(target.parent)!r} for the report {target.name!r} does not exist.")
    with whole(target) as part:
        part.write_text(render(data), encoding="utf-8")
