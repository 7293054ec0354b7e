"""What the command line shows: tables, progress, and the report of a study as data. Nothing here prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autopeft import settings as settings_module
from autopeft.cli.fronts import answers, plain_table
from autopeft.objective import Objective
from autopeft.objectives import largest_fact
from autopeft.reports.content import ReportData
from autopeft.reports.rows import retrained_in, search_seconds
from autopeft.settings import Settings
from autopeft.study.events import Claimed, Event, Failed, Told
from autopeft.study.reading import Readable
from autopeft.training.precision_choice import choice_from
from autopeft.training.rate_card import RateCard, Signal, signal_from
from autopeft.training.worker_choice import WORKERS
from autopeft.trial import TrialState

if TYPE_CHECKING:
    from autopeft.finals import Entry, Verdict
    from autopeft.study.study import Study


def finals_table(entries: Sequence[Entry], verdict: Verdict) -> RenderableType:
    """The finals of one band, best first; the test part stands beside the validation part that decided."""
    table = plain_table(("nominal", "rate", "seeds", "validation", "test", "± std"), f"Finals, {verdict.band}")
    table.add_column("finalist", overflow="fold")
    for entry in sorted(entries, key=lambda entry: (not entry.is_last, -entry.validation)):
        test, finalist = list(entry.test.values()), entry.finalist
        measured = [f"{fmean(test):.4f}" if test else "failed", f"{stdev(test):.4f}" if len(test) > 1 else ""]
        who = f"{finalist.name} ({finalist.found_by})" if not finalist.is_baseline else finalist.name
        numbers = [f"{finalist.nominal:,}", f"{entry.learning_rate:g}", str(len(entry.runs)), f"{entry.validation:.4f}"]
        table.add_row(*numbers, *measured, who, style="bold" if entry is verdict.choice else "")
    return table


def budgets_line(study: Readable) -> str:
    """That every budget is answered, and how long it took; empty where the sampler has none or is not done."""
    if not answers(study):
        return ""
    budgets, trials = study.settings["sampler_settings"]["budgets"], study.trials()
    if sum(trial.origin == study.settings["sampler"] and trial.is_complete for trial in trials) < len(budgets):
        return ""
    seconds = search_seconds(trials, is_answering=True)
    answered = "The budget is" if len(budgets) == 1 else f"All {len(budgets)} budgets are"
    return f"{answered} answered, in {seconds:.0f} s of search: {'; '.join(budgets)}."


class SearchProgress:
    """A progress bar of a search, with the time left; call it with the study's events."""

    def __init__(self, progress: Progress, study: Study, total: int) -> None:
        self.progress, self.study, self.cost, self.failed = progress, study, study.cost, 0
        # A search that goes on begins its bar where it stands, or the time left would be that of all trials.
        self.bar: TaskID = progress.add_task("search", total=total, completed=study.n_finished())

    def __call__(self, event: Event) -> None:
        trial = event.trial
        if isinstance(event, Told) and (found := trial.latest) is not None:
            spent = self.cost.text(self.cost.told(found))
            # A value at a rung is another quantity than one at the end, and must not be read as one.
            paused = f", paused at {trial.reached[-1].fidelity}" if trial.state is TrialState.PAUSED else ""
            self.say(f"trial {trial.root}: {found.objective} {found.value:.4f} at {spent}{paused}")
        elif isinstance(event, Failed) and trial.failure is not None:
            self.failed += 1
            self.say(f"trial {trial.root} failed ({trial.failure.kind}); {self.failed} failed")
        elif isinstance(event, Claimed):
            self.progress.update(self.bar, description=f"trial {trial.root} ({trial.origin})")

    def say(self, text: str) -> None:
        """Show `text` and where the search stands."""
        self.progress.update(self.bar, description=text, completed=self.study.n_finished())


def progress_bar(console: Console) -> Progress:
    """Description, bar, count, elapsed and remaining time, on `console`."""
    # A name of a trial may hold brackets, which rich would take for markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def report_of(study: Readable, folder: Path, by: Objective | None = None) -> ReportData:
    """Everything a report tells of the study in `folder`, and of what was retrained from it."""
    settings = settings_module.load(folder / "settings.yaml", trust_remote_code=True)  # no model is loaded here
    signal, cost = signal_from(study.fact), by or study.cost
    return ReportData(
        title=f"{settings.task or 'own files'}, {settings.model}",
        facts=_facts(study, settings, signal),
        trials=study.trials(),
        command=f"autopeft search {shlex.quote(str(folder / 'settings.yaml'))} --out {shlex.quote(str(folder))}"
        f"{database_option(study, folder)}",
        splits={"search": "validation", "report": "test"},
        retrained=retrained_in(folder),
        signal=() if signal is None else signal.rows(),
        swept=None if signal is None else signal.cost,
        card=signal if isinstance(signal, RateCard) else None,
        verdict=() if signal is None else (str(signal),),
        largest=study.fact(largest_fact(cost)),
        cost=cost,
        notes=(*(() if signal is None or signal.has_signal else (str(signal),)), *_failed_proposals(study)),
        is_answering=answers(study),
    )


def database_option(study: Readable, folder: Path) -> str:
    """The option that names the study's database, if it is not the folder's own file; without its password."""
    # A command that is shown must be complete: without its database the next one would begin an empty study.
    is_own = study.location == str(folder / "study.db")
    return "" if is_own else f" --storage {shlex.quote(study.location)}"


def _failed_proposals(study: Readable) -> list[str]:
    return [
        f"The sampler {row['sampler']} failed ({row['kind']}) with {row['n_trials']} trials there, after "
        f"{row['seconds']:.1f} s: {row['message']}"
        for row in study.failed_proposals()
    ]


def _facts(study: Readable, settings: Settings, signal: Signal | None) -> Mapping[str, Any]:
    """What was done. The recipe is that of the trials: at the learning rates that were found before them."""
    chosen = {} if signal is None else signal.recipe_changes()
    facts: dict[str, Any] = {
        "model": settings.model,
        "task": settings.task or (", ".join(settings.files.parts()["train"]) if settings.files else ""),
        "protocol": settings.protocol,
        "sampler": settings.sampler,
        "cost": f"{study.cost.label}; known {study.cost.known}",
        "sampler settings": study.settings.get("sampler_settings", {}),
        "trials": settings.trials,
        "initial design": settings.initial,
        "start": settings.start or "random",
        **({} if settings.trainings is None else {"budget in trainings": settings.trainings}),
        **({} if settings.promotion == "all" else {"promotion": settings.promotion}),
        "search seed": settings.seed,
        "recipe": {**settings.recipe.as_dict(), **chosen},
        "versions": dict(study.versions),
    }
    if (measured := choice_from(study.fact)) is not None:
        facts["precision"] = measured.as_dict()
    if (workers := study.fact(WORKERS)) is not None:
        facts["workers"] = workers
    data = study.fact("data")
    return {**facts, "data": dict(data)} if data else facts
