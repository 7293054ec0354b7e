"""What models wrote, on the page of an experiment: their metrics, and some texts beside the gold ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from autopeft.reports.markdown import markdown_table
from autopeft.reports.tables import Table

Kept = Sequence[Mapping[str, Any]]
"""See `autopeft.training.kept_texts.kept_texts`."""

_MOST_REFERENCES = 3


def written(metrics: Mapping[str, Sequence[Mapping[str, float]]], kept: Mapping[str, Kept]) -> list[str]:
    """A section of the page, as lines; none where no texts are kept.

    Args:
        metrics: on the test part, one mapping a run, by who wrote.
        kept: the texts of one run of each.
    """
    if not any(kept.values()):
        return []
    tables = (metrics_table(metrics), texts_table(kept))
    return ["## What was written", "", *(line for table in tables for line in (markdown_table(table), ""))]


def metrics_table(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """The mean of every metric over all runs of each that wrote."""
    names = tuple(dict.fromkeys(name for runs in metrics.values() for run in runs for name in run))
    rows = [
        (who, *(_mean([run[name] for run in runs if name in run]) for name in names), str(len(runs)))
        for who, runs in metrics.items()
    ]
    header = ("written by", *names, "n")
    return Table(header, tuple(rows), "All metrics on the test part: means over all runs.", frozenset(header[1:]))


def texts_table(kept: Mapping[str, Kept]) -> Table:
    """A row an example: what it was, what each wrote, and the first gold texts; the results' file has all of them."""
    # By place and prompt: two examples may ask the same, and the test part of another seed may be another one.
    rows: dict[tuple[int, str], dict[str, str]] = {}
    gold: dict[tuple[int, str], str] = {}
    for who, texts in kept.items():
        for place, one in enumerate(texts):
            key = place, str(one["prompt"])
            rows.setdefault(key, {})[who] = str(one["said"])
            gold[key] = _few(one["references"])
    shown = tuple(
        (prompt, *(own.get(who, "") for who in kept), gold[place, prompt]) for (place, prompt), own in rows.items()
    )
    caption = "The first texts on the test part, of one run each, beside what people wrote."
    return Table(("asked", *kept, "people wrote"), shown, caption)


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.4f}" if values else ""


def _few(references: Sequence[str]) -> str:
    more = len(references) - _MOST_REFERENCES
    return " / ".join(references[:_MOST_REFERENCES]) + (f" (and {more} more)" if more > 0 else "")
