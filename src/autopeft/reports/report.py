"""The report of a study as a file: one HTML page, Markdown or JSON, by the file's ending."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autopeft.errors import SettingsError
from autopeft.objective import Objective, shares
from autopeft.reports.content import ReportData, caveats, progress
from autopeft.reports.html import html
from autopeft.reports.markdown import markdown
from autopeft.reports.rows import failure_rows, front_rows, timing
from autopeft.rungs import n_reached, rung_correlations
from autopeft.trial import Trial
from autopeft.writing import write_whole


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
    with write_whole(target) as part:
        part.write_text(render(data), encoding="utf-8")


def _trial(trial: Trial, cost: Objective) -> dict[str, Any]:
    """A trial in few words; the study's storage has the rest."""
    found = trial.measurement
    spent = {} if found is None else {**shares(found.counts), "cost": cost.of(found)}
    measured = {} if found is None else {"value": found.value, **spent, "seconds": found.seconds}
    failure = {} if trial.failure is None else {"failure": trial.failure.kind}
    about = {"number": trial.number, "origin": trial.origin, "seed": trial.seed, "state": trial.state.value}
    return {**about, **measured, **failure, "architecture": str(trial.candidate)}


def as_json(data: ReportData) -> str:
    """The report for machines: facts, caveats, front, retrained points, failures, times, curves."""
    curves = progress(data)
    content = {
        "title": data.title,
        "command": data.command,
        "facts": data.facts,
        "cost": {"name": data.cost.name, "unit": data.cost.unit, "known": data.cost.known},
        "splits": data.splits,
        "caveats": caveats(data),
        "front": [row.as_dict() for row in front_rows(data.trials, cost=data.cost, is_answering=data.is_answering)],
        "trials": [_trial(trial, data.cost) for trial in data.trials],
        "retrained": [summary.as_dict() for summary in data.retrained],
        "failures": [asdict(row) for row in failure_rows(data.trials)],
        "timing": asdict(timing(data.trials)),
        "search_cost": asdict(data.search_cost),
        "reached": {str(fidelity): n for fidelity, n in n_reached(data.trials).items()},
        "rungs": [one.as_dict() for one in rung_correlations(data.trials)],
        "signal": list(data.signal),
        "rate_card": None if data.card is None else data.card.as_dict(),
        "hypervolume": curves
        and {
            "reference": curves.reference,
            "curves": {c.name: {"seeds": c.seeds, "mean": c.mean.tolist()} for c in curves.curves},
        },
    }
    # A NaN is none of JSON's values, and readers in other languages refuse the whole file for one.
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"
