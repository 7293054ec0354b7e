"""`autopeft finish`: the finals of a search against the baselines of its cost, and a verdict."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli import options
from autopeft.cli.app import app
from autopeft.cli.flags import Sets
from autopeft.cli.studies import AsJson, Database, StudyFolder, TrustRemoteCode, opened, opened_for_reading
from autopeft.cli.terminal import err, out, print_json, say
from autopeft.collecting import import_for_good
from autopeft.writing import FINALS, check_file, write_whole

if TYPE_CHECKING:
    from autopeft.finals import Entry, Finalist, Finals, Plan, Verdict
    from autopeft.finals.heats import Result
    from autopeft.objective import Objective
    from autopeft.session import Session
    from autopeft.settings import Settings
    from autopeft.trial import Trial

FOLDER = "finals"
"""The folder inside a study's that keeps the runs of its finals."""

RESULTS = "finals.json"
"""The file inside a study's folder that says what they gave."""

_BUDGETS = ("0.1%", "0.5%", "2%")

FullData = Annotated[
    bool,
    typer.Option(
        "--full-data", help="The whole training part, where the search's settings keep only some of it (train_limit)."
    ),
]
Margin = Annotated[
    float,
    typer.Option(min=0, help="Differences of the metric up to this count as none; of an error, as a share of it."),
]

Refine = Annotated[
    int,
    typer.Option(min=0, help="Neighbours to try around every finalist of the last round: units moved at its cost."),
]


@app.command()
def finish(
    folder: StudyFolder,
    at: Annotated[
        str | None,
        typer.Option(
            help="Budgets, such as 0.1%,0.5%: finals of each among half of it to all of it. Default: that of the "
            f"space, else those of {', '.join(_BUDGETS)} in which something was measured."
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
    margin: Margin = 0.01,
    refine: Refine = 0,
    epochs: Annotated[float | None, typer.Option(help="Epochs of every run; 20 unless the settings say more.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Evaluations without improvement before stopping; 10 unless the settings say more."),
    ] = None,
    full_data: FullData = False,
    storage: Database = None,
    trust_remote_code: TrustRemoteCode = False,
    sets: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Train the best of a search beside the baselines of its cost, with equal care, and say what to use."""
    import_for_good("autopeft.session")
    from autopeft.session import Session, check_retraining

    check_file("The outcome", folder / RESULTS, FINALS)
    changes = {"recipe.epochs": epochs, "recipe.patience": patience, "learning_rates": options.rates(rates)}
    settings = options.for_retraining(
        folder, changes, sets, keeps_data=not full_data, trust_remote_code=trust_remote_code
    )
    asked = FinalsAsked(names_in(at), each, names_in(baselines), rates is not None, widen, first, last, margin, refine)
    asked.plan()  # what is wrong with it is told before a model is loaded
    session = Session.build(settings, is_begun=True)
    with opened_for_reading(folder, storage) as study:
        check_retraining(session, study, folder)
    found = hold(folder, session, asked, storage)
    if as_json:
        print_json(found.as_dict())
    else:
        show_finals(found, folder, settings)


@dataclass(frozen=True)
class FinalsAsked:
    """What a command line says of finals, see `finish`; `is_rated` where it names learning rates of its own.

    The last three are for a search that is to be finished: of its finals' settings, see `after`.
    """

    at: tuple[str, ...] = ()
    each: int = 3
    baselines: tuple[str, ...] = ()
    is_rated: bool = False
    widen: int = 1
    first: int = 3
    last: int = 5
    margin: float = 0.01
    refine: int = 0
    rates: tuple[float, ...] = ()
    epochs: float | None = None
    full_data: bool = False

    def after(self, settings: Settings) -> Settings:
        """The settings of the finals of a search with these."""
        changes = {"recipe.epochs": self.epochs, "learning_rates": list(self.rates) or None}
        return options.after_search(settings, changes, keeps_data=not self.full_data)

    def plan(self, rates: Sequence[float] = ()) -> Plan:
        """What every finalist is given; the usual rates where there are none."""
        from autopeft.finals import Plan

        return Plan(tuple(rates) or Plan().learning_rates, self.widen, self.first, self.last)

    def budgets(self, settings: Settings) -> tuple[str, ...]:
        """The budgets that are asked for: those named, else that of the space where it limits the study's cost."""
        from autopeft import objectives

        counted = objectives.lookup(settings.cost).count
        is_same = settings.space.budget is not None and counted == settings.space.count
        return self.at or ((settings.space.budget,) if is_same and settings.space.budget else ())

    def most_runs(self, settings: Settings) -> int:
        """Runs of all finals at the most: every rate widened, every usual budget with finalists of its own."""
        from autopeft.finals.finalists import USUAL

        # A card has three rates to choose from, as the usual ones are.
        rates = settings.learning_rates if self.is_rated or settings.rates != "card" else ()
        n_bands = len(self.budgets(settings) or _BUDGETS)
        n_baselines = len(self.baselines or USUAL)
        return n_bands * self.plan(rates).most_runs(self.each, n_baselines, self.refine)


def asked_in_search(
    final_epochs: Annotated[
        float | None, typer.Option(help="Epochs of every run of the finals; 20 unless said.")
    ] = None,
    final_seeds: Annotated[int, typer.Option(min=2, help="Seeds of the finals' last round.")] = 5,
    finalists: Annotated[int, typer.Option(min=1, help="Searched finalists a budget.")] = 3,
    final_at: Annotated[str | None, typer.Option(help="Budgets of the finals, as `--at` of `autopeft finish`.")] = None,
    final_baselines: Annotated[str | None, typer.Option(help="Baselines in the finals.")] = None,
    final_rates: Annotated[
        str | None, typer.Option(help="Learning rates in the finals; else those of the search.")
    ] = None,
    margin: Margin = 0.01,
    refine: Refine = 0,
    full_data: FullData = False,
) -> FinalsAsked:
    """What a search that is to be finished says of its finals."""
    return FinalsAsked(
        names_in(final_at),
        finalists,
        names_in(final_baselines),
        final_rates is not None,
        first=min(3, final_seeds),
        last=final_seeds,
        margin=margin,
        refine=refine,
        rates=tuple(options.rates(final_rates) or ()),
        epochs=final_epochs,
        full_data=full_data,
    )


def hold(folder: Path, session: Session, asked: FinalsAsked, storage: str | None) -> Finals:
    """Hold the finals of the study in `folder` and write what came of them beside it.

    Args:
        session: of the settings of the finals.
    """
    from autopeft.finals import hold_finals
    from autopeft.finals.finalists import USUAL
    from autopeft.session.rates import carded
    from autopeft.training.rate_card import signal_from
    from autopeft.training.retraining import write_cell

    settings = session.settings
    with opened(folder, storage) as study:
        trials, signal, cost = study.trials(), signal_from(study.fact), study.cost
        session, usual = carded(session, study)
    plan = asked.plan(settings.learning_rates if asked.is_rated else usual)
    told = _Progress(plan, asked.refine)
    found = hold_finals(
        session.evaluator,
        session.space,
        trials,
        asked.budgets(settings) or _usual_budgets(trials, cost),
        plan,
        n=asked.each,
        baselines=asked.baselines or USUAL,
        folder=folder / FOLDER,
        swept=0 if signal is None else signal.cost,
        costing=session.costing,
        margin=asked.margin,
        n_neighbours=asked.refine,
        on_invited=told.invited,
        on_run=told.run,
    )
    outcome = {**found.as_dict(), "recipe": session.evaluator.recipe.as_dict()}
    _keep_earlier(folder / RESULTS, outcome)
    write_cell(folder / RESULTS, outcome)
    return found


def _keep_earlier(path: Path, outcome: Mapping[str, Any]) -> None:
    """Set aside the outcome of other finals at `path`, under the first number that is free beside it.

    Finals with other flags, or after more trials, answer another question, so that neither outcome is worth less.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    earlier = path.read_bytes()
    # As text, which knows no tuples, and in which NaN equals itself. The same command reads the runs that it made, and
    # so has the same outcome.
    if json.dumps(json.loads(earlier), sort_keys=True) == json.dumps(outcome, sort_keys=True):
        return
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.stem}-{n}{path.suffix}").exists())
    aside = path.with_name(f"{path.stem}-{number}{path.suffix}")
    with write_whole(aside) as part:
        part.write_bytes(earlier)
    say(f"The outcome of the finals before these is kept as {aside}.", err)


def names_in(text: str | None) -> tuple[str, ...]:
    """The parts between the commas of an option."""
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


@dataclass
class _Progress:
    """Says who is in the finals, and after every run how many there may still be, and for how long."""

    plan: Plan
    refine: int = 0
    most: int = 0
    done: int = 0
    trained: float = 0.0

    def invited(self, finalists: Sequence[Finalist]) -> None:
        """Told before anything is trained."""
        bands = dict.fromkeys(finalist.band for finalist in finalists)
        for band in bands:
            inside = [finalist for finalist in finalists if finalist.band == band]
            n_baselines = sum(finalist.is_baseline for finalist in inside)
            self.most += self.plan.most_runs(len(inside) - n_baselines, n_baselines, self.refine)
            for one in inside:
                say(f"{band}: {one.name}, {one.nominal:,} parameters: {one.candidate}", err)

    def run(self, finalist: Finalist, result: Result) -> None:
        """Told after every run, those that were read from an earlier call included."""
        self.done += 1
        value = result.failure or f"{result.validation:.4f} on validation"
        # By what all runs took so far, those that were only read too, so that a call that goes on does not promise less
        # than it takes: the seconds are those of the training, then or now.
        self.trained += result.seconds
        left = max(0, self.most - self.done) * self.trained / self.done
        say(
            f"[{self.done} of at most {self.most}] {finalist.band}: {finalist.name}, rate {result.learning_rate:g}, "
            f"seed {result.seed}: {value}, {result.seconds:.1f} s (at most {_duration(left)} left)",
            err,
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def show_finals(found: Finals, folder: Path, settings: Settings) -> None:
    """Print the table of each band and its verdict, what all of it cost, and the command that uses it."""
    from autopeft.cli.console import finals_table

    for entries, verdict in zip(found.entries, found.verdicts, strict=True):
        out.print(finals_table(entries, verdict))
    for band, verdict in zip(found.refined, found.verdicts, strict=False):  # one a band, or none at all
        for refined in band:
            say(f"{verdict.band}: {refined}")
    for verdict in found.verdicts:
        for line in verdict.lines():
            say(line)
    cost = found.as_dict()["cost"]
    say(
        f"Cost in runs of this recipe: search {_known(cost['search_in_full_runs'], '.1f')}, finals "
        f"{cost['finals_in_full_runs']:.1f}. In training examples: {_known(cost['search_examples'], ',')} and "
        f"{cost['finals_examples']:,}; in seconds of training and evaluation: {cost['search_seconds']:.0f} and "
        f"{cost['finals_seconds']:.0f}. All of it: {folder / RESULTS}"
    )
    for verdict in found.verdicts:
        say(f"Next, for {verdict.band}: {_next_command(verdict, folder, settings)}")


def _known(value: float | None, spec: str) -> str:
    return "unknown" if value is None else format(value, spec)


def _next_command(verdict: Verdict, folder: Path, settings: Settings) -> str:
    """The command that trains what the verdict says to use and saves it; of a limited search on all of its data."""
    chosen = verdict.choice
    recipe = settings.recipe
    length = f"--epochs {recipe.epochs:g}" if recipe.steps is None else f"--set recipe.steps={recipe.steps}"
    command = (
        f"autopeft train {shlex.quote(str(folder))} {_option_for(chosen, folder)} --learning-rates "
        f"{chosen.learning_rate:g} {length} --save MODEL_FOLDER"
    )
    limit = settings.train_limit
    return command if limit is None else f"{command}  (with --set train_limit={limit}: on the examples of the finals)"


def _option_for(chosen: Entry, folder: Path) -> str:
    """Options of `autopeft train` that name a finalist: its baseline, or a file that is written for it."""
    from autopeft.training.retraining import BASELINES, write_cell

    finalist = chosen.finalist
    known = finalist.name.partition(":")[0]
    # The size of a combination's other methods is part of its definition, but was resized with the first one's; and a
    # name does not say what is changed about the recipe.
    if finalist.is_baseline and len(BASELINES[known].parts) == 1 and finalist.candidate.changes.is_empty:
        return f"--baseline {finalist.name}"
    # A trial may bring a factor on its rate, which finals leave out; so its number would name something else.
    path = folder / FOLDER / f"use-{finalist.band}.json"
    write_cell(path, finalist.candidate.as_dict())
    return f"--architecture {shlex.quote(str(path))}"
