"""`autopeft finish`: the finals of a search against the baselines of its cost, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli import options
from autopeft.cli.app import app
from autopeft.cli.flags import Sets
from autopeft.cli.studies import AsJson, Database, StudyFolder, TrustRemoteCode, opened
from autopeft.cli.terminal import err, out, print_json, say
from autopeft.writing import FINALS, check_file

if TYPE_CHECKING:
    from autopeft.finals import Finalist, Finals, Plan
    from autopeft.finals.heats import Result
    from autopeft.objective import Objective
    from autopeft.settings import Settings
    from autopeft.trial import Trial

FOLDER = "finals"
"""The folder inside a study's that keeps the runs of its finals."""

RESULTS = "finals.json"
"""The file inside a study's folder that says what they gave."""

_BUDGETS = ("0.1%", "0.5%", "2%")


@app.command()
def finish(
    folder: StudyFolder,
    at: Annotated[
        str | None,
        typer.Option(
            help="Budgets, such as 0.1%,0.5%: finals of each among half of it to all of it. "
            f"Default: those of {', '.join(_BUDGETS)} in which something was measured."
        ),
    ] = None,
    each: Annotated[int, typer.Option(min=1, help="Searched finalists a budget.")] = 3,
    baselines: Annotated[
        str | None,
        typer.Option(help="Baselines to train beside them, resized to the budget; `autopeft list baselines`."),
    ] = None,
    rates: Annotated[
        str | None, typer.Option("--learning-rates", help="The same candidates for all, such as 3e-4,1e-3,3e-3.")
    ] = None,
    widen: Annotated[int, typer.Option(min=0, help="Further candidates while the best lies at an end.")] = 1,
    first: Annotated[int, typer.Option(help="Seeds of the first round.")] = 3,
    last: Annotated[int, typer.Option(help="Seeds of the last round, for the better half.")] = 5,
    epochs: Annotated[float | None, typer.Option(help="Epochs of every run; 20 unless the settings say more.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Evaluations without improvement before stopping; 10 unless the settings say more."),
    ] = None,
    storage: Database = None,
    trust_remote_code: TrustRemoteCode = False,
    sets: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Train the best of a search beside the baselines of its cost, with equal care, and say what to use."""
    check_file("The outcome", folder / RESULTS, FINALS)
    changes = {"recipe.epochs": epochs, "recipe.patience": patience, "learning_rates": options.rates(rates)}
    settings = options.for_retraining(folder, changes, sets, trust_remote_code=trust_remote_code)
    asked = FinalsAsked(_names(at), each, _names(baselines), rates is not None, widen, first, last)
    found = hold(folder, settings, asked, storage)
    if as_json:
        print_json(found.as_dict())
    else:
        show_finals(found, folder)


@dataclass(frozen=True)
class FinalsAsked:
    """What a command line says of finals, see `finish`; `is_rated` where it names learning rates of its own."""

    at: tuple[str, ...] = ()
    each: int = 3
    baselines: tuple[str, ...] = ()
    is_rated: bool = False
    widen: int = 1
    first: int = 3
    last: int = 5

    def plan(self, rates: Sequence[float] = ()) -> Plan:
        """What every finalist is given; the usual rates where there are none."""
        from autopeft.finals import Plan

        return Plan(tuple(rates) or Plan().learning_rates, self.widen, self.first, self.last)

    def most_runs(self, n_rates: int) -> int:
        """Runs of all finals at the most: every rate widened, every usual budget with finalists of its own."""
        from autopeft.finals.finalists import USUAL

        n_baselines, n_bands = len(self.baselines or USUAL), len(self.at or _BUDGETS)
        entrants = self.each + n_baselines
        halves = (self.each + 1) // 2 + (n_baselines + 1) // 2
        return n_bands * (entrants * (n_rates + self.widen + self.first - 1) + halves * (self.last - self.first))


def hold(folder: Path, settings: Settings, asked: FinalsAsked, storage: str | None) -> Finals:
    """Hold the finals of the study in `folder` and write what came of them beside it."""
    from autopeft.finals import hold_finals
    from autopeft.finals.finalists import USUAL
    from autopeft.session import Session
    from autopeft.session.rates import carded
    from autopeft.training.rate_card import signal_from
    from autopeft.training.retraining import write_cell

    asked.plan()  # what is wrong with it is told before a model is loaded
    session = Session.build(settings)
    with opened(folder, storage) as study:
        trials, signal, cost = study.trials(), signal_from(study.fact), study.cost
        session, usual = carded(session, study)
    found = hold_finals(
        session.evaluator,
        session.space,
        trials,
        asked.at or _usual_budgets(trials, cost),
        asked.plan(settings.learning_rates if asked.is_rated else usual),
        n=asked.each,
        baselines=asked.baselines or USUAL,
        folder=folder / FOLDER,
        swept=0 if signal is None else signal.cost,
        costing=session.costing,
        on_invited=_show_invited,
        on_run=_show_run,
    )
    write_cell(folder / RESULTS, {**found.as_dict(), "recipe": session.evaluator.recipe.as_dict()})
    return found


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _usual_budgets(trials: Sequence[Trial], cost: Objective) -> tuple[str, ...]:
    """The usual budgets in whose bands something was measured; the dearest trial's cost where there is none.

    A cost that is no count of parameters has no usual budgets.
    """
    from autopeft.trial import with_cost

    measured = with_cost(trials, cost)
    values = [value for _, _, value in measured]
    limits = {text: cost.limits(text, one.counts)[1] for _, one, _ in measured[:1] for text in _BUDGETS if cost.counted}
    # A budget in whose band nothing was measured has no finalist, and would only end the finals with an error.
    found = tuple(text for text, most in limits.items() if any(most / 2 <= value <= most for value in values))
    if found or not measured:
        return found
    if cost.count is not None:
        return (str(max(one.counts.of(cost.count) for _, one, _ in measured)),)
    # A text that is rounded down would leave out the very trial that it is made of.
    return (f"{max(values) * 1.000001:.9g}",)


def _show_invited(finalists: Sequence[Finalist]) -> None:
    for finalist in finalists:
        say(f"{finalist.band}: {finalist.name}, {finalist.nominal:,} parameters: {finalist.candidate}", err)


def _show_run(finalist: Finalist, result: Result) -> None:
    value = result.failure or f"{result.validation:.4f} on validation"
    say(f"{finalist.band}: {finalist.name}, rate {result.learning_rate:g}, seed {result.seed}: {value}", err)


def show_finals(found: Finals, folder: Path) -> None:
    """Print the table of each band and its verdict, and what all of it cost."""
    from autopeft.cli.console import finals_table

    for entries, verdict in zip(found.entries, found.verdicts, strict=True):
        out.print(finals_table(entries, verdict))
    for verdict in found.verdicts:
        for line in verdict.lines():
            say(line)
    cost = found.as_dict()["cost"]
    search = cost["search_in_full_runs"]
    searched = "unknown" if search is None else f"{search:.1f}"
    say(f"Cost in runs of this recipe: search {searched}, finals {cost['finals_in_full_runs']:.1f}. {folder / RESULTS}")
