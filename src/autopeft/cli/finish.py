"""`autopeft finish`: the finals of a search against the baselines of its cost, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli import options
from autopeft.cli.app import app
from autopeft.cli.flags import Sets
from autopeft.cli.studies import AsJson, Database, StudyFolder, TrustRemoteCode, opened
from autopeft.cli.terminal import err, out, print_json, say
from autopeft.writing import FINALS, check_file

if TYPE_CHECKING:
    from autopeft.finals import Finalist, Finals
    from autopeft.finals.heats import Result
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
    from autopeft.finals import Plan, hold_finals
    from autopeft.finals.finalists import USUAL
    from autopeft.session import Session
    from autopeft.session.rates import carded
    from autopeft.training.rate_card import signal_from

    session = Session.build(settings)
    with opened(folder, storage) as study:
        trials, signal = study.trials(), signal_from(study.fact)
        session, usual = carded(session, study)
    plan = Plan((settings.learning_rates if rates else usual) or Plan().learning_rates, widen, first, last)
    found = hold_finals(
        session.evaluator,
        session.space,
        trials,
        _names(at) or _usual_budgets(trials),
        plan,
        n=each,
        baselines=_names(baselines) or USUAL,
        folder=folder / FOLDER,
        swept=0 if signal is None else signal.cost,
        on_invited=_show_invited,
        on_run=_show_run,
    )
    _keep(found, session.evaluator.recipe.as_dict(), folder, as_json=as_json)


def _keep(found: Finals, recipe: Mapping[str, Any], folder: Path, *, as_json: bool) -> None:
    """Write what came of it into the study's folder, and tell it."""
    from autopeft.training.retraining import write_cell

    write_cell(folder / RESULTS, {**found.as_dict(), "recipe": dict(recipe)})
    if as_json:
        print_json(found.as_dict())
    else:
        show(found, folder)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _usual_budgets(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The usual budgets in whose bands something was measured; the dearest trial's cost where there is none."""
    from autopeft.objectives import nominal

    counts = [trial.measurement.counts for trial in trials if trial.measurement is not None]
    shares = [nominal(one) for one in counts]
    # A budget in whose band nothing was measured has no finalist, and would only end the finals with an error.
    found = tuple(text for text in _BUDGETS if any(float(text[:-1]) / 2 <= s <= float(text[:-1]) for s in shares))
    return found or tuple(str(max(one.nominal for one in counts)) for _ in counts[:1])


def _show_invited(finalists: Sequence[Finalist]) -> None:
    for finalist in finalists:
        say(f"{finalist.band}: {finalist.name}, {finalist.nominal:,} parameters: {finalist.candidate}", err)


def _show_run(finalist: Finalist, result: Result) -> None:
    value = result.failure or f"{result.validation:.4f} on validation"
    say(f"{finalist.band}: {finalist.name}, rate {result.learning_rate:g}, seed {result.seed}: {value}", err)


def show(found: Finals, folder: Path) -> None:
    """Print the table of each band and its verdict, and what all of it cost."""
    from autopeft.cli.console import finals_table

    for entries, verdict in zip(found.entries, found.verdicts, strict=True):
        out.print(finals_table(entries, verdict))
    for verdict in found.verdicts:
        say(str(verdict))
    cost = found.as_dict()["cost"]
    search = cost["search_in_full_runs"]
    searched = "unknown" if search is None else f"{search:.1f}"
    say(f"Cost in runs of this recipe: search {searched}, finals {cost['finals_in_full_runs']:.1f}. {folder / RESULTS}")
