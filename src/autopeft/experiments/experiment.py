"""Experiments: comparisons described in YAML that resume cell by cell.

Three kinds. ``compare`` runs searches with several samplers and search seeds on the same initial designs; ``retrain``
trains points of fronts and baselines on several seeds with the same care; ``contest`` searches at each of several
parameter budgets and retrains what was found on paired cuts of the data, see `autopeft.experiments.contest`. Every
cell is a JSON file, written when it is done; a cell that exists is not run again, and `missing` lists what is left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autopeft import methods, samplers
from autopeft import settings as settings_module
from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.errors import AutopeftError, InputError, SettingsError, UnknownNameError
from autopeft.experiments.contest import Contest, contest, run_cell
from autopeft.experiments.provenance import provenance
from autopeft.network.build import count
from autopeft.objective import Measurement, hypervolume_curve, reference_point
from autopeft.reading import read_json
from autopeft.reports.rows import search_seconds
from autopeft.rules import COUNT
from autopeft.session import Session, answers_budgets
from autopeft.settings import Settings, read_yaml
from autopeft.study.study import Study
from autopeft.training.rate_sweep import middle, sweep
from autopeft.training.retraining import baseline, retrain, write_cell
from autopeft.trial import Trial, front_of

log = logging.getLogger(__name__)

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """An experiment file, read and checked.

    Args:
        path: the file.
        kind: "compare", "retrain" or "contest".
        title: one sentence for people.
        settings: shared by all cells.
        samplers: for "compare" and "contest": name to changes of the settings.
        seeds: search seeds, or the seeds of retraining.
        architectures: for "retrain": name to a baseline's name, or to a mapping that says where the architecture
            is found: ``{baseline}``, ``{file}`` (JSON, beside the experiment), or ``{experiment, cells, at, trials}``,
            the best point of finished searches within a budget in percent, among the first so many measured trials of
            each. A ``learning_rate`` beside it takes the place of the choice among `learning_rates`, ``rate_factors``
            those of the recipe.
        learning_rates: for "retrain": what every architecture chooses from.
        tuning: for "retrain", may be absent: changes of the recipe while the learning rate is chosen.
        widen: for "retrain", may be absent: how many rates beyond them may be tried while the best is at their edge.
        contest: for "contest": budgets and retraining.
    """

    path: Path
    kind: str
    title: str
    settings: Settings
    seeds: tuple[int, ...]
    samplers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    architectures: Mapping[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    tuning: Mapping[str, Any] = field(default_factory=dict)
    widen: int = 0
    contest: Contest | None = None

    @property
    def name(self) -> str:
        """The file's name without ending; also the name of its folder of results."""
        return self.path.stem

    def cells(self) -> tuple[str, ...]:
        """Names of all cells, the most telling first: seed by seed for searches, as listed for retraining."""
        if self.kind == "retrain":
            return tuple(self.architectures)
        if self.contest is not None:
            return tuple(self.contest.cells(self.seeds))
        return tuple(f"{name}-seed{seed}" for seed in self.seeds for name in self.samplers)

    def settings_of(self, cell: str, tuned: Settings | None = None) -> Settings:
        """The settings of one cell.

        Args:
            tuned: what takes the place of the shared settings, with the learning rate that the sweep chose.
        """
        shared = tuned or self.settings
        if self.kind == "retrain":
            return shared
        if self.contest is not None:
            return self.contest.settings(shared, *self.contest.cells(self.seeds)[cell])
        sampler, _, seed = cell.rpartition("-seed")
        found = _merged(shared.as_dict(), {**self.samplers[sampler], "seed": int(seed)})
        return settings_module.from_dict(found, trust_remote_code=shared.trust_remote_code)

    def missing(self, results: Path) -> tuple[str, ...]:
        """Cells that have no result yet."""
        return tuple(cell for cell in self.cells() if not (results / self.name / f"{cell}.json").exists())


_KEYS = {
    "compare": {"kind", "title", "settings", "samplers", "seeds"},
    "retrain": {"kind", "title", "settings", "architectures", "seeds", "learning_rates"},
    "contest": {"kind", "title", "settings", "samplers", "seeds", "budgets", "retraining"},
}

_OPTIONAL = {"retrain": {"tuning", "widen"}}


def read(path: str | Path, data: str | None = None, *, trust_remote_code: bool = False) -> Experiment:
    """The experiment in a YAML file.

    Args:
        data: replaces the data folder of the settings, so that files need not name one.
        trust_remote_code: see `autopeft.settings.from_dict`.

    Raises:
        SettingsError: the file is not an experiment.
    """
    raw = read_yaml(path)
    kind = str(raw.get("kind"))
    if kind not in _KEYS:
        raise SettingsError(f"{path}: `kind` is one of {', '.join(_KEYS)}, but got {kind!r}.")
    wrong = sorted((set(raw) ^ _KEYS[kind]) - _OPTIONAL.get(kind, set()))
    if wrong:
        raise SettingsError(f"{path}: an experiment of kind {kind!r} has exactly {sorted(_KEYS[kind])}; see {wrong}.")
    _check_kinds(raw, path)
    base = {**raw["settings"], **({"data": data} if data is not None else {})}
    found = Experiment(
        path=Path(path),
        kind=kind,
        title=str(raw["title"]),
        settings=settings_module.from_dict(base, trust_remote_code=trust_remote_code),
        seeds=tuple(raw["seeds"]),
        samplers=raw.get("samplers") or {},
        architectures=raw.get("architectures") or {},
        learning_rates=tuple(float(rate) for rate in raw.get("learning_rates") or ()),
        tuning=raw.get("tuning") or {},
        widen=raw.get("widen", 0),
        contest=contest(raw, path) if kind == "contest" else None,
    )
    for recipe in (found.tuning, found.contest.recipe if found.contest is not None else {}):
        merged = _merged(found.settings.as_dict(), {"recipe": recipe})
        settings_module.from_dict(merged, trust_remote_code=trust_remote_code)
    for cell in found.cells():
        found.settings_of(cell)  # mistakes in a sampler's changes show now, not after hours
    return found


def read_result(path: Path) -> dict[str, Any]:
    """What `autopeft.training.retraining.write_cell` wrote.

    Raises:
        SettingsError: the file cannot be read, or holds something else than an object.
    """
    data = read_json(path, "The result", SettingsError)
    if not isinstance(data, dict):
        raise SettingsError(f"The result {str(path)!r} must hold an object, but holds {type(data).__name__}.")
    return data


def _check_kinds(raw: Mapping[str, Any], path: str | Path) -> None:
    named = "architectures" if raw["kind"] == "retrain" else "samplers"
    wrong = []
    if not isinstance(raw["settings"], Mapping):
        wrong.append(f"`settings` is a mapping, but got {raw['settings']!r}")
    if not isinstance(raw[named], Mapping) or not raw[named]:
        wrong.append(f"`{named}` is a mapping with one entry at least, but got {raw[named]!r}")
    elif named == "samplers":
        odd = {name: change for name, change in raw[named].items() if not isinstance(change, Mapping)}
        wrong += [f"`samplers.{name}` is a mapping of settings, but got {change!r}" for name, change in odd.items()]
    else:
        mistakes = {name: _architecture_mistake(wanted) for name, wanted in raw[named].items()}
        wrong += [f"`architectures.{name}` {mistake}" for name, mistake in mistakes.items() if mistake]
    seeds = raw["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds):
        wrong.append(f"`seeds` is a list of whole numbers of at least 0, but got {seeds!r}")
    rates = raw.get("learning_rates", [])
    if not isinstance(rates, list) or not all(map(_is_rate, rates)):
        wrong.append(f"`learning_rates` is a list of numbers above 0, but got {rates!r}")
    widen = raw.get("widen", 0)
    if type(widen) is not int or widen < 0:
        wrong.append(f"`widen` is a whole number of at least 0, but got {widen!r}")
    if wrong:
        raise SettingsError(f"The experiment {str(path)!r} cannot be used: {'; '.join(wrong)}.")


def _is_rate(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        return False


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`; the recipe entry by entry, anything else as a whole."""
    found = {**base, **changes}
    if isinstance(changes.get("recipe"), Mapping):
        found["recipe"] = {**base["recipe"], **changes["recipe"]}
    return found


def run(experiment: Experiment, results: Path, work: Path, announce: Announce, only: str | None = None) -> None:
    """Run the cells that are missing and write each when it is done.

    Args:
        results: folder of results; the experiment's own folder is made in it.
        work: folder of the studies, so that an interrupted search continues within its cell.
        announce: told what begins and ends.
        only: run just this cell.

    Raises:
        InputError: there is no such cell, or one to be run names an architecture or a method that there is not.
        AutopeftError: cells failed; all others have been run, and what each failed at is told. Or the sweep that
            they share failed, and none was run.
    """
    if only is not None and only not in experiment.cells():
        raise UnknownNameError("cell", only, experiment.cells())
    cells = [cell for cell in experiment.missing(results) if only in (None, cell)]
    if cells and experiment.kind == "retrain":
        _check_architectures(experiment, cells, results)
    elif cells:
        _tuned_settings(experiment, results)
    failed: dict[str, str] = {}
    for number, cell in enumerate(cells, start=1):
        announce(f"{experiment.name}: {cell} ({number} of {len(cells)})")
        try:
            data = _cell(experiment, cell, results, work)
        except InputError:
            raise
        except AutopeftError as error:
            failed[cell] = str(error)
            announce(f"{experiment.name}: {cell} failed: {error}")
            continue
        write_cell(results / experiment.name / f"{cell}.json", data)
        announce(f"{experiment.name}: {cell} done: {data['headline']}")
    if failed:
        raise AutopeftError("; ".join(f"the cell {cell} failed: {message}" for cell, message in failed.items()))


def _cell(experiment: Experiment, cell: str, results: Path, work: Path) -> dict[str, Any]:
    if experiment.kind == "retrain":
        return _retrain_cell(experiment, cell, results)
    if experiment.contest is not None:
        settings = experiment.settings_of(cell, _tuned_settings(experiment, results))
        return run_cell(experiment.title, settings, experiment.contest, work / experiment.name / cell)
    return _search_cell(experiment, cell, results, work)


# -- searches --------------------------------------------------------------------------------------------------


def _search_cell(experiment: Experiment, cell: str, results: Path, work: Path) -> dict[str, Any]:
    tuned = _tuned_settings(experiment, results)
    session = Session.build(experiment.settings_of(cell, tuned))
    known = _known(experiment, cell, work)

    def evaluate(architecture: Architecture, training_seed: int) -> Measurement:
        reused = known.get((architecture.fingerprint, training_seed))
        return session.evaluator(architecture, training_seed) if reused is None else reused

    folder = work / experiment.name / cell
    with session.begin(folder) as study:
        study.run(evaluate, session.sampler(folder=folder), session.total, session.initial)
        return search_result(experiment.title, session, study)


def _tuned_settings(experiment: Experiment, results: Path) -> Settings:
    """The settings at the learning rate that one sweep, shared by all cells, chose."""
    settings = experiment.settings
    if not settings.learning_rates:
        return settings
    path = results / experiment.name / "proxy.json"
    if not path.exists():
        session = Session.build(settings)
        signal = sweep(session.evaluator, middle(session.space), settings.learning_rates, settings.seed)
        log.info("%s", signal)
        write_cell(path, signal.as_dict())
    rate = float(read_result(path)["chosen"])
    recipe = replace(settings.recipe, learning_rate=rate)
    return settings.with_changes(recipe=recipe, learning_rates=())


def _known(experiment: Experiment, cell: str, work: Path) -> dict[tuple[str, int], Measurement]:
    """What rivals of the same seed that train alike have measured: the shared initial design is trained once."""
    found = {}
    seed = cell.rpartition("-seed")[2]
    for rival in (f"{name}-seed{seed}" for name in experiment.samplers):
        path = work / experiment.name / rival / "study.db"
        if rival != cell and path.exists() and _training(experiment, rival) == _training(experiment, cell):
            with Study.open(path) as study:
                for trial in study.trials():
                    if trial.measurement is not None:
                        found[trial.architecture.fingerprint, trial.seed] = trial.measurement
    return found


def _training(experiment: Experiment, cell: str) -> dict[str, Any]:
    """The settings that decide what a trial measures, whoever proposed it."""
    found = experiment.settings_of(cell).identity()
    return {key: value for key, value in found.items() if key not in _PROPOSING}


_PROPOSING = ("sampler", "sampler_options", "space", "initial")


def search_result(title: str, session: Session, study: Study) -> dict[str, Any]:
    """A finished search as JSON-ready data: every trial, the front, the hypervolume curve and its reference point.

    Raises:
        AutopeftError: no trial was measured.
    """
    trials = study.trials()
    if not any(trial.is_complete for trial in trials):
        raise AutopeftError(f"None of the {len(trials)} trials was measured, so there is no result.")
    points = [(t.origin, (m.percent, m.value)) for t in trials if (m := t.measurement) is not None]
    measured = [point for _, point in points]
    initial = [point for origin, point in points if origin == "initial"]
    largest = 100 * session.space.cost(session.space.largest()) / session.backbone.n_parameters
    reference = reference_point(initial or measured, largest)
    curve = hypervolume_curve(measured, reference)
    front = front_of(trials)
    return {
        "title": title,
        "headline": f"hypervolume {curve[-1]:.4f}, {len(front)} points on the front",
        "sampler_settings": samplers.settings_of(session.sampler()),
        "objective": session.task.objective,
        "n_initial": len(session.initial),
        "reference": list(reference),
        "hypervolume": [float(value) for value in curve],
        "search_seconds": search_seconds(trials, is_answering=answers_budgets(session.settings.sampler)),
        "front": [[point.key, point.cost, point.value] for point in front.points],
        "trials": [_trial(trial) for trial in trials],
        "cardinality": session.space.cardinality,
        **provenance(session, open_test=False),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    found = trial.measurement
    return {
        "number": trial.number,
        "origin": trial.origin,
        "indices": list(trial.configuration.indices),
        "architecture": trial.architecture.as_dict(),
        "described": str(trial.architecture),
        "failure": None if trial.failure is None else trial.failure.kind,
        "proposal_seconds": trial.proposal_seconds,
        **(
            {}
            if found is None
            else {
                "value": found.value,
                "percent": found.percent,
                "counts": found.counts.as_dict(),
                "seconds": found.seconds,
                "latency": found.latency,
            }
        ),
    }


# -- retraining ------------------------------------------------------------------------------------------------


def _retrain_cell(experiment: Experiment, cell: str, results: Path) -> dict[str, Any]:
    session = Session.build(experiment.settings)
    wanted = experiment.architectures[cell]
    architecture = architecture_of(experiment, cell, session.backbone, results)
    evaluator, rates = session.evaluator, experiment.learning_rates
    if isinstance(wanted, Mapping) and "learning_rate" in wanted:
        evaluator, rates = evaluator.with_recipe(learning_rate=float(wanted["learning_rate"])), ()
    if isinstance(wanted, Mapping) and "rate_factors" in wanted:
        evaluator = evaluator.with_recipe(rate_factors={k: float(v) for k, v in wanted["rate_factors"].items()})
    found = retrain(
        evaluator, cell, architecture, experiment.seeds,
        learning_rates=rates, tuning=experiment.tuning, widen=experiment.widen,
    )  # fmt: skip
    summary = found.summary()
    spread = "single seed" if summary["std"] is None else f"± {summary['std']:.4f}"
    return {
        **found.as_dict(),
        "title": experiment.title,
        "headline": f"{found.test[0].objective} {summary['mean']:.4f} {spread} on test",
        "tuning": dict(experiment.tuning),
        "rate_factors": evaluator.recipe.rate_factors,
        **provenance(session, open_test=True),
    }


def _check_architectures(experiment: Experiment, cells: Sequence[str], results: Path) -> None:
    """Every cell's architecture is found and fits, and its methods exist: better told now than after hours."""
    backbone = Session.build(experiment.settings).backbone
    wrong = []
    for cell in cells:
        wanted = experiment.architectures[cell]
        try:
            count(backbone, architecture_of(experiment, cell, backbone, results))
            for name in wanted.get("rate_factors", {}) if isinstance(wanted, Mapping) else ():
                methods.lookup(name)
        except InputError as error:
            wrong.append(f"`architectures.{cell}`: {str(error).removesuffix('.')}")
    if wrong:
        raise SettingsError(f"The experiment {str(experiment.path)!r} cannot be run: {'; '.join(wrong)}.")


def architecture_of(experiment: Experiment, cell: str, backbone: Backbone, results: Path) -> Architecture:
    """What the cell of a retraining trains: a baseline, a file's architecture, or a point of finished searches.

    Raises:
        SettingsError: the searches have not been run, or there is no such baseline.
        ArchitectureError: the file cannot be read.
    """
    wanted = experiment.architectures[cell]
    if isinstance(wanted, str):
        return baseline(wanted, backbone)
    if "baseline" in wanted:
        return baseline(str(wanted["baseline"]), backbone)
    if "file" in wanted:
        return Architecture.load(experiment.path.parent / str(wanted["file"]))
    points = list(_points(results / str(wanted["experiment"]), wanted.get("cells"), wanted.get("trials")))
    limit = _percent(wanted)
    fitting = [point for point in points if point[0] <= limit]
    if not fitting:
        raise SettingsError(f"No finished search of {wanted['experiment']!r} has a point of at most {limit:g}%.")
    _, _, data = max(fitting, key=lambda point: (point[1], -point[0]))
    return Architecture.from_dict(data)


_SOURCES = {"baseline": set[str](), "file": set[str](), "experiment": {"cells", "at", "trials"}}


def _architecture_mistake(wanted: Any) -> str | None:
    """What is wrong with the description of an architecture; None when nothing is."""
    if isinstance(wanted, str):
        return None
    sources = [name for name in _SOURCES if isinstance(wanted, Mapping) and name in wanted]
    if len(sources) != 1 or set(wanted) - _SOURCES[sources[0]] - {sources[0], "learning_rate", "rate_factors"}:
        return f"is a baseline's name, {{baseline}}, {{file}} or {{experiment, cells, at, trials}}, but got {wanted!r}"
    try:
        factors = [float(factor) for factor in dict(wanted.get("rate_factors", {})).values()]
        ok = min(_percent(wanted), float(wanted.get("learning_rate", 1)), *factors) > 0
        ok = ok and COUNT[1](wanted.get("trials", 1))
    except (TypeError, ValueError):
        ok = False
    if ok:
        return None
    return (
        "has numbers above 0 for `at` (in percent), `trials` (whole), `learning_rate` and each of `rate_factors`, "
        f"but got {wanted!r}"
    )


def _percent(wanted: Mapping[str, Any]) -> float:
    return float(str(wanted.get("at", "inf")).rstrip("% "))


def _points(folder: Path, cells: Any, first: int | None) -> Iterator[tuple[float, float, Mapping[str, Any]]]:
    for path in sorted(folder.glob("*-seed*.json")):
        if cells is None or path.stem in cells:
            measured = [trial for trial in read_result(path)["trials"] if "value" in trial]
            for trial in measured[:first]:
                yield float(trial["percent"]), float(trial["value"]), trial["architecture"]
