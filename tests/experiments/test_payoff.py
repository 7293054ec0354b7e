"""Pay-offs: rivals that spend the same, and what their pages say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pytest
import yaml

from autopeft.architecture import Architecture, Counts, Placement
from autopeft.candidate import Candidate, Changes
from autopeft.errors import NonFiniteFailure, SettingsError
from autopeft.experiments import Experiment, read, run, write_summary
from autopeft.experiments._payoff_finals import Entrant, settle
from autopeft.experiments._payoff_purse import Purse
from autopeft.experiments._payoff_tables import Outcome, differences_table, overview, sizes_table
from autopeft.experiments._results import Results
from autopeft.experiments.payoff import Payoff
from autopeft.objective import Measurement
from autopeft.session import Session
from autopeft.settings import from_dict
from autopeft.study.study import Study
from autopeft.training.recipe import Recipe
from small_case import CHANGES, Case, writer

RIVALS: dict[str, Any] = {
    "careful": {"how": "grid", "baselines": ["lora:1", "serial:1"], "rates": [1e-2], "finals": 0.3},
    "tpe": {"how": "lora-tpe", "ranks": [1, 3], "startup": 2, "finals": 0.3},
    "published": {"how": "search", "finals": 0, "settings": {"sampler": "random", "initial": 1}},
    "ours": {
        "how": "search",
        "smoothed": True,
        "finals": 0.3,
        "settings": {"learning_rates": [1e-2, 1e-1], "initial": 2},
    },
}
COST = 6
FILES = {"settings": {"task": None}}
RECIPE = {"steps": 1, "batch_size": 8, "max_length": 16}


def write(case: Case, path: Path, **changes: Any) -> Path:
    data = {
        "kind": "payoff",
        "title": "Six trainings each",
        "settings": case.data(recipe=RECIPE),
        "rivals": RIVALS,
        "ours": "ours",
        "cost": COST,
        "seeds": [4],
        "retraining": {"seeds": [0, 1]},
    }
    path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``six.yaml`` and all of its cells in ``results``."""
    folder = tmp_path_factory.mktemp("payoff")
    run(read(write(case, folder / "six.yaml")), folder / "results", folder / "work", lambda text: None)
    return folder


def cells(done: Path) -> dict[str, dict[str, Any]]:
    return {name: dict(cell) for name, cell in Results(done / "results" / "six").read().items()}


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_every_rival_spends_what_is_allowed_and_no_more(done: Path) -> None:
    for name, cell in cells(done).items():
        cost = cell["cost"]
        assert cost["limit"] == COST * cost["full_training"] == COST * 8
        assert cost["examples"] == sum(one["examples"] for one in cost["spent"]) <= cost["limit"], name
        assert cost["trainings"] == COST, (name, [one["name"] for one in cost["spent"]])


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_the_test_part_is_opened_once_for_what_validation_chose(done: Path) -> None:
    found = cells(done)
    for cell in found.values():
        assert cell["split"] == "test"
        assert cell["tested"]["seeds"] == [0, 1]
        assert len(cell["tested"]["values"]) == 2
    for name in ("careful-seed4", "tpe-seed4", "ours-seed4"):
        # What won had more seeds than the first, and its mean is the best of those that had as many.
        spent, chosen = found[name]["cost"]["spent"], found[name]["chosen"]
        again = [one for one in spent if one["stage"] == "finals"]
        assert len(chosen["validation"]) == 1 + len({one["seed"] for one in again}) > 1
        means = {
            rival: fmean(one["value"] for one in again if one["name"] == rival)
            for rival in {one["name"] for one in again}
        }
        assert chosen["name"] in means
    # As published, nothing has a second seed: the best measured trial wins.
    published = found["published-seed4"]
    assert [one["stage"] for one in published["cost"]["spent"]] == ["search"] * COST
    assert published["chosen"]["validation"] == [max(one["value"] for one in published["cost"]["spent"])]


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_rates_that_are_tried_before_a_search_are_charged(done: Path) -> None:
    stages = cells(done)["ours-seed4"]["cost"]["stages"]
    full = cells(done)["ours-seed4"]["cost"]["full_training"]
    assert stages["rates"] == 2 * full
    assert set(stages) == {"rates", "search", "finals"}


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_a_cell_that_is_run_again_trains_nothing_twice(
    case: Case, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an interruption: the trainings and the studies are there, the cells are not."""
    from autopeft.training.evaluator import Evaluator

    monkeypatch.setattr(Evaluator, "trained", lambda *given: pytest.fail("it was trained before"))
    run(read(done / "six.yaml"), tmp_path / "results", done / "work", lambda text: None)
    again = {name: dict(cell) for name, cell in Results(tmp_path / "results" / "six").read().items()}
    assert again == cells(done)


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_the_page_compares_ours_with_every_other(done: Path) -> None:
    experiment = read(done / "six.yaml")
    text = write_summary(experiment, done / "results").read_text()
    assert "| ours less | mean difference |" in text
    # There is one search seed, so that pairs are those of the two retrainings.
    assert "paired by seed of retraining: intervals are of what one search chose" in text
    for name in RIVALS:
        assert f"| {name} | 1 |" in text
    assert (done / "results" / "six" / "results.png").exists()


@pytest.mark.slow  # all rivals train, in ten seconds of a core
def test_tasks_and_seeds_make_the_pairs_of_the_overview(case: Case, done: Path, tmp_path: Path) -> None:
    """Two tasks and two seeds, with values put by hand: ours is above by 0.1, 0.2, 0.3 and 0.4."""
    path = write(case, tmp_path / "two.yaml", tasks={"one": FILES, "two": FILES}, seeds=[4, 5])
    experiment: Experiment = read(path)
    base, results = cells(done), Results(tmp_path / "results" / "two")
    for place, (task, seed) in enumerate((t, s) for t in ("one", "two") for s in (4, 5)):
        for rival in RIVALS:
            value = 0.5 + (0.1 * (place + 1) if rival == "ours" else 0.0)
            own = base[f"{rival}-seed4"]
            changed = {
                "seed": seed,
                "settings": {**own["settings"], "seed": seed, "data_seed": seed},
                "tested": {**own["tested"], "values": [value, value]},
            }
            results.append(f"{task}/{rival}-seed{seed}", {**own, **changed})
    text = write_summary(experiment, tmp_path / "results").read_text()
    assert "## Over all tasks" in text
    # Mean 0.25, standard deviation 0.1291, t of 3 degrees of freedom 3.182: 0.25 +- 0.2054.
    assert text.count("| +0.2500 | +0.0446 to +0.4554 | 4 |") == 3
    assert "| ours | 0.6500 | 0.8500 | 0.7500 |" in text


def test_several_may_be_compared_with_all_others() -> None:
    def cell(rival: str, seed: int, value: float) -> dict[str, Any]:
        return {"rival": rival, "seed": seed, "tested": {"values": [value]}, "counts": {"nominal": 5}}

    values = {"a": 0.5, "b": 0.6, "c": 0.8}
    cells = {task: [cell(name, seed, of) for name, of in values.items() for seed in (0, 1)] for task in ("one", "two")}
    text = "\n".join(overview(cells, tuple(values), ("c", "b")))
    assert re.findall(r"\| (\w) less", text) == ["c", "b"]
    assert [found[0] for found in re.findall(r"\| ([+-]0\.\d{4}) \|( [^|]*\|){5}", text)] == [
        "+0.3000", "+0.2000", "+0.1000", "-0.2000",
    ]  # fmt: skip
    assert overview(cells, tuple(values), ("nobody",)) == []


def told_of(rival: str, value: float) -> dict[str, Any]:
    counts, splits = {"nominal": 5}, {"test": {"size": 50}}
    return {"rival": rival, "seed": 0, "tested": {"values": [value]}, "counts": counts, "splits": splits}


def test_two_tasks_of_one_difference_are_no_certainty() -> None:
    cells = {task: [told_of("ours", 0.65), told_of("grid", 0.6)] for task in ("one", "two")}
    text = "\n".join(overview(cells, ("ours", "grid"), ("ours",)))
    assert "no difference shown" in text
    assert "better" not in text


def test_a_task_may_have_a_rival_of_its_own(case: Case, tmp_path: Path) -> None:
    own = {"extra": {"how": "grid", "baselines": ["lora:1"], "rates": [1e-2]}}
    tasks = {"one": FILES, "two": {**FILES, "rivals": own}}
    found = read(write(case, tmp_path / "own.yaml", tasks=tasks))
    cells = {"ours-seed4": told_of("ours", 0.65), "careful-seed4": told_of("careful", 0.6)}
    done = {"one": cells, "two": {**cells, "extra-seed4": told_of("extra", 0.5)}}
    text = "\n".join(Payoff.overview({task: (cast(Payoff, found.parts[task]), own) for task, own in done.items()}))
    assert "| extra | +0.1500 |" in text


# -- the finals, with metrics put by hand -------------------------------------------------------------------------


@dataclass
class Told:
    """In place of a ledger: the metric by size of the candidate and seed, None where training fails."""

    values: Mapping[tuple[int, int], float | None]
    asked: list[tuple[int, int]] = field(default_factory=list)

    def measure(self, evaluator: Any, candidate: Candidate, seed: int) -> Measurement:
        size = candidate.architecture.placements[0].size
        self.asked.append((size, seed))
        value = self.values[size, seed]
        if value is None:
            raise NonFiniteFailure("by hand")
        counts = Counts(size, size, size, 100)
        return Measurement(
            {"accuracy": value}, "accuracy", counts, 1.0, 0, 0.0, "validation", extra={"n_processed": 10}
        )


@dataclass
class Runs:
    """In place of an evaluator: ten examples a run."""

    n_train: int = 10
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=1, batch_size=5))


@dataclass
class Sized(Entrant):
    """An entrant whose cost needs no backbone."""

    @property
    def nominal(self) -> int:
        return self.candidate.architecture.placements[0].size


def entrants(scores: Sequence[float]) -> list[Entrant]:
    """One of size 1 with the first score, of size 2 with the second, and so on."""
    found: list[Entrant] = []
    for size, score in enumerate(scores, start=1):
        candidate = Candidate(Architecture((Placement("encoder.0.q", "lora", size),)))
        found.append(Sized(str(size), candidate, cast(Any, Runs()), score, [score], "by hand"))
    return found


def test_what_is_left_goes_into_further_seeds_of_the_best() -> None:
    """Six trainings: four of five go on, then the better two of them; the luckiest of the first seed does not win."""
    values = {(4, 100): 0.2, (3, 100): 0.8, (2, 100): 0.9, (5, 100): 0.1, (3, 101): 0.5, (2, 101): 0.8}
    told = Told(values)
    purse = Purse(cast(Any, told), 60)
    chosen = settle(purse, entrants([0.1, 0.5, 0.6, 0.7, 0.55]), range(100, 110))
    assert told.asked == [(4, 100), (3, 100), (5, 100), (2, 100), (2, 101), (3, 101)]
    assert (chosen.name, purse.examples, purse.left(cast(Any, Runs()))) == ("2", 60, 0)
    assert chosen.values == [0.5, 0.9, 0.8]


def test_what_fails_with_one_seed_is_not_chosen_and_is_charged() -> None:
    purse = Purse(cast(Any, Told({(2, 100): None, (1, 100): 0.3})), 20)
    chosen = settle(purse, entrants([0.5, 0.9]), range(100, 110))
    assert (chosen.name, purse.examples) == ("1", 20)
    assert [one.value for one in purse.spent] == [None, 0.3]


def test_without_anything_left_the_best_that_was_measured_wins_and_of_equals_the_cheaper() -> None:
    told = Told({})
    assert settle(Purse(cast(Any, told), 9), entrants([0.5, 0.9, 0.9]), range(3)).name == "2"
    assert told.asked == []
    with pytest.raises(SettingsError, match="Nothing could be trained"):
        settle(Purse(cast(Any, told), 9), [], range(3))


def incumbents(scores: Sequence[float], *known: str) -> list[Entrant]:
    found = entrants(scores)
    for one in found:
        one.is_incumbent = one.name in known
    return found


@pytest.mark.parametrize(
    ("challenger", "expected"),
    [
        ([0.61, 0.62], "1"),  # better each time, by 0.1, 0.01, 0.02, which is not enough
        ([0.69, 0.71], "2"),  # better by 0.1, 0.09, 0.11
        ([None, 0.9], "1"),
        ([0.4, 0.9], "1"),  # better on average
    ],
)
def test_what_is_known_stays_unless_another_is_better_seed_by_seed(
    challenger: list[float | None], expected: str
) -> None:
    values = {(1, 100): 0.6, (1, 101): 0.6, (2, 100): challenger[0], (2, 101): challenger[1]}
    purse = Purse(cast(Any, Told(values)), 40)
    chosen = settle(purse, incumbents([0.5, 0.6], "1"), range(100, 110))
    assert (chosen.name, purse.examples) == (expected, 40)


def test_half_of_those_that_go_on_are_known() -> None:
    told = Told({(size, 100): 0.1 * size for size in range(1, 7)} | {(n, 101): 0.0 for n in (4, 3, 5)})
    purse = Purse(cast(Any, told), 60)
    settle(purse, incumbents([0.1, 0.2, 0.3, 0.9, 0.8, 0.7], "1", "2", "3"), range(100, 110))
    assert told.asked[:4] == [(4, 100), (5, 100), (3, 100), (2, 100)]


def test_without_a_second_seed_what_is_known_stays() -> None:
    assert settle(Purse(cast(Any, Told({})), 9), incumbents([0.5, 0.9], "1"), range(3)).name == "1"
    assert settle(Purse(cast(Any, Told({})), 9), incumbents([0.5, 0.9], "2"), range(3)).name == "2"


def test_where_parameters_have_a_price_the_smaller_is_chosen_unless_the_larger_earns_it() -> None:
    def chosen(price: float, gain: float) -> str:
        found = entrants([0.8, 0.8 + gain, 0.1, 0.8 + gain])
        for one in found:
            one.price = price
        return settle(Purse(cast(Any, Told({})), 9), found, range(3)).name

    # Size 2 costs one price more than size 1, size 4 two.
    assert (chosen(0.0, 0.01), chosen(0.02, 0.01), chosen(0.009, 0.01)) == ("2", "1", "2")


def test_a_challenger_that_is_larger_has_to_earn_its_size() -> None:
    def chosen(price: float) -> str:
        values = {(size, seed): 0.6 + 0.1 * (size == 2) for size in (1, 2) for seed in (100, 101)}
        found = incumbents([0.6, 0.7], "1")
        for one in found:
            one.price = price
        return settle(Purse(cast(Any, Told(values)), 40), found, range(100, 110)).name

    assert (chosen(0.0), chosen(0.09), chosen(0.11)) == ("2", "2", "1")


def test_sizes_are_told_beside_each_other_rival() -> None:
    ours = {0: Outcome(0.7, 10), 1: Outcome(0.5, 10), 2: Outcome(0.9, 30)}
    keyed = {"ours": ours, "a": {0: Outcome(0.7, 40), 1: Outcome(0.6, 50), 2: Outcome(0.1, 60)}, "none": {}}
    assert sizes_table(keyed, "ours").rows == (("a", "0.25", "3", "2", "1"),)
    assert sizes_table({"ours": ours, "zero": {0: Outcome(0.2, 0)}}, "ours").rows == ()


def test_differences_are_paired_and_corrected_for_the_number_of_rivals() -> None:
    keyed = {"ours": {0: 0.5, 1: 0.7, 2: 0.6}, "a": {0: 0.4, 1: 0.6, 2: 0.5}, "b": {0: 0.5, 1: 0.6, 2: 0.7}, "c": {}}
    first, second, third = differences_table(keyed, "ours", "seed", 0.001).rows
    # Equal differences spread by one grain: 0.1 +- 4.303 * 0.001 / sqrt(3).
    assert first[1:4] == ("+0.1000", "+0.0975 to +0.1025", "3")
    assert (first[-1], second[-1], third[-1]) == ("better", "no difference shown", "no seed in common")
    assert float(first[5]) == pytest.approx(2 * float(first[4]), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ours": "nobody"}, "`ours` is one of the rivals"),
        ({"ours": ["ours", "nobody"]}, "`ours` is one of the rivals"),
        ({"ours": []}, "`ours` is one of the rivals"),
        ({"cost": 0}, "`cost` is a whole number of full trainings"),
        ({"seeds": [0, 0]}, "`seeds` names every seed once"),
        ({"retraining": {"seeds": [40, 40]}}, "`retraining` is a mapping of `seeds` .a list, each once"),
        ({"retraining": {}}, "`retraining` is a mapping of `seeds`"),
        ({"rivals": {"ours": {"how": "luck"}}}, "`how` is one of grid, lora-tpe, search, zero-shot"),
        ({"rivals": {"ours": {"how": "grid", "rates": [1]}}}, "`baselines` is missing"),
        ({"rivals": {"ours": {"how": "search", "settings": {}, "budget": 1}}}, "`budget` is not known"),
        ({"rivals": {"ours": {"how": "lora-tpe", "finals": 1}}}, "`finals` is a share below 1"),
        ({"rivals": {"ours": {"how": "search", "settings": {"samplr": "random"}}}}, "samplr"),
        (
            {"rivals": {"ours": {"how": "search", "settings": {}, "first": [{"baseline": "lora"}]}}},
            "an entry of `first`",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_run(
    case: Case, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        read(write(case, tmp_path / "wrong.yaml", **changes))


def test_a_grid_that_costs_more_than_is_allowed_is_refused(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path / "dear.yaml", cost=2, rivals={"ours": RIVALS["careful"]})
    with pytest.raises(SettingsError, match="2 baselines at 1 rates are more than the 1 trainings"):
        run(read(path), tmp_path / "results", tmp_path / "work", lambda text: None)
    assert not (tmp_path / "work").exists()


def test_a_grid_may_have_several_numbers_of_examples_a_step(case: Case, tmp_path: Path) -> None:
    grid = {"how": "grid", "baselines": ["serial:1"], "rates": [1e-2, 1e-1], "batch_factors": [0.25, 1], "finals": 0.3}
    experiment = read(write(case, tmp_path / "batches.yaml", rivals={"ours": grid}))
    run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None)
    cell = Results(tmp_path / "results" / "batches").read()["ours-seed4"]
    spent = cell["cost"]["spent"]
    told = [f"serial:1 at {rate:g}{batch}" for batch in (" batch×0.25", "") for rate in (1e-2, 1e-1)]
    assert [one["name"] for one in spent if one["stage"] == "rates"] == told
    # Smaller batches make more steps and cost no more: the recipe has one step of eight examples.
    assert {one["examples"] for one in spent} == {8}
    wrong = read(write(case, tmp_path / "wrong.yaml", rivals={"ours": {**grid, "batch_factors": [0.25, 0.5, 1]}}))
    with pytest.raises(SettingsError, match="1 baselines trained in 3 ways each at 2 rates are more than the 4"):
        run(wrong, tmp_path / "r", tmp_path / "w", lambda text: None)


@pytest.mark.slow
def test_a_grid_and_what_is_known_may_be_without_dropout(case: Case, tmp_path: Path) -> None:
    grid = {"how": "grid", "baselines": ["serial:1"], "rates": [1e-2], "dropout_factors": [0, 1], "finals": 0.6}
    known = {"baseline": "serial:1", "rates": [1e-2], "batch_factor": 0.5, "dropout_factor": 0}
    ours = {"how": "search", "first": [known], "settings": {"sampler": "random", "initial": 1}, "finals": 0}
    experiment = read(write(case, tmp_path / "dry.yaml", rivals={"grid": grid, "ours": ours}))
    run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None)
    cells = Results(tmp_path / "results" / "dry").read()
    told = [one["name"] for one in cells["grid-seed4"]["cost"]["spent"] if one["stage"] == "rates"]
    assert told == ["serial:1 at 0.01 without dropout", "serial:1 at 0.01"]
    assert cells["ours-seed4"]["cost"]["spent"][0]["name"] == "serial:1 at 0.01 batch×0.5 without dropout"


def test_what_is_known_is_trained_before_a_search_paid_for_and_meets_its_trials(case: Case, tmp_path: Path) -> None:
    rival = {
        "how": "search",
        "first": {"lora:1": "1e-2", "serial:1": 1e-1},
        "settings": {"sampler": "random", "initial": 1},
    }
    rivals = {**RIVALS, "ours": {**rival, "finals": 0}}
    experiment = read(write(case, tmp_path / "known.yaml", rivals=rivals))
    run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None, only="ours-seed4")
    cell = Results(tmp_path / "results" / "known").read()["ours-seed4"]
    spent = cell["cost"]["spent"]
    assert [(one["stage"], one["name"]) for one in spent[:2]] == [
        ("rates", "lora:1 at 0.01"),
        ("rates", "serial:1 at 0.1"),
    ]
    assert [one["stage"] for one in spent[2:]] == ["search"] * (COST - 2)
    assert cell["chosen"]["validation"] == [max(one["value"] for one in spent)]
    wrong = {**RIVALS, "ours": {**rival, "first": {"lore": 1e-3}}}
    mistaken = read(write(case, tmp_path / "wrong.yaml", rivals=wrong))
    with pytest.raises(SettingsError, match="A baseline is one of"):
        run(mistaken, tmp_path / "r", tmp_path / "w", lambda text: None)


def test_a_challenge_searches_around_the_champion_at_its_rate(case: Case, tmp_path: Path) -> None:
    rival = {
        "how": "search",
        "challenge": True,
        "first": {"serial:1": ["1e-2", 1e-1], "serial:2": {0.5: 1e-2}},
        "settings": {"sampler": "random", "initial": 3, "space": {**CHANGES["space"], "batch_factors": [0.25, 0.5, 1]}},
        "finals": 0,
    }
    experiment = read(write(case, tmp_path / "challenge.yaml", rivals={"ours": rival}))
    run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None)
    cell = Results(tmp_path / "results" / "challenge").read()["ours-seed4"]
    known = cell["cost"]["spent"][:3]
    assert [one["name"] for one in known] == ["serial:1 at 0.01", "serial:1 at 0.1", "serial:2 at 0.01 batch×0.5"]
    best = max(known, key=lambda one: one["value"])
    size, rate = best["name"].removeprefix("serial:").removesuffix(" batch×0.5").split(" at ")
    batch = 0.5 if "batch" in best["name"] else 1
    folder = next((tmp_path / "work").rglob("study.db"))
    with Study.open(folder) as study:
        assert study.settings["recipe"]["learning_rate"] == float(rate)
        found = [trial.candidate for trial in study.trials()]
    # First the other batches, the smaller one before the larger, then a method that was absent.
    others = [0.5, 0.25] if batch == 1 else [0.25, 1]
    assert [one.changes for one in found] == [Changes(batch_factor=factor) for factor in (*others, batch)]
    serial = {("serial", int(size))}
    parts = [{(item.method, item.size) for item in one.architecture} for one in found]
    assert parts == [serial, serial, serial | {("prefix", 2)}]
    # With one seed for each nothing is shown to be better than what is known.
    assert cell["chosen"]["name"] == best["name"]


def test_a_challenge_trains_as_its_champion_where_the_space_leaves_no_choice(case: Case, tmp_path: Path) -> None:
    known = {"baseline": "serial:1", "rates": [1e-2], "batch_factor": 0.5, "dropout_factor": 0}
    space = {**CHANGES["space"], "batch_factors": [], "dropout_factors": []}
    settings = {"sampler": "random", "initial": 1, "space": space}
    rival = {"how": "search", "challenge": True, "first": [known], "settings": settings, "finals": 0}
    experiment = read(write(case, tmp_path / "same.yaml", rivals={"ours": rival}))
    run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None)
    with Study.open(next((tmp_path / "work").rglob("study.db"))) as study:
        recipe, trials = study.settings["recipe"], study.trials()
    assert (recipe["batch_size"], recipe["dropout"]) == (RECIPE["batch_size"] / 2, 0)
    assert all(trial.candidate.changes == Changes() for trial in trials)
    spent = Results(tmp_path / "results" / "same").read()["ours-seed4"]["cost"]["spent"]
    assert {one["examples"] for one in spent} == {8}


def test_a_model_that_answers_in_words_may_compete_as_it_is_and_one_with_a_head_may_not(
    case: Case, tmp_path: Path
) -> None:
    settings = {**case.data(recipe=RECIPE), "model": writer(tmp_path)["model"]}
    rivals = {"ours": {"how": "zero-shot"}}
    words = write(case, tmp_path / "words.yaml", rivals=rivals, settings={**settings, "answer": "words"})
    run(read(words), tmp_path / "results", tmp_path / "work", lambda text: None)
    cell = Results(tmp_path / "results" / "words").read()["ours-seed4"]
    evaluator = Session.build(from_dict({**settings, "answer": "words"})).evaluator
    plain = evaluator.score(evaluator.encode(evaluator.splits.test), evaluator.splits.test)["accuracy"]
    assert cell["tested"]["values"] == [plain, plain]
    assert (cell["cost"]["examples"], cell["counts"]["stored"]) == (0, 0)
    assert (
        "| ours | 4 | nothing trained | none |  | 0 |" in write_summary(read(words), tmp_path / "results").read_text()
    )
    head = write(case, tmp_path / "head.yaml", rivals=rivals, settings=settings)
    with pytest.raises(SettingsError, match="A head that is not trained says nothing"):
        run(read(head), tmp_path / "results", tmp_path / "work", lambda text: None)


@pytest.mark.slow
def test_some_of_what_was_written_is_kept(case: Case, tmp_path: Path) -> None:
    settings = {**case.data(recipe=RECIPE), **writer(tmp_path)}
    path = write(case, tmp_path / "said.yaml", rivals={"ours": {"how": "zero-shot"}}, settings=settings)
    run(read(path), tmp_path / "results", tmp_path / "work", lambda text: None)
    tested = Results(tmp_path / "results" / "said").read()["ours-seed4"]["tested"]
    assert len(tested["texts"]) == 4  # a tenth of the rows is the test part; of more than ten the first ten are kept
    # A search seed draws the data, so that the same rows are the test part here.
    evaluator = Session.build(from_dict({**settings, "data_seed": 4})).evaluator
    test = evaluator.splits.test
    outputs = evaluator.outputs(evaluator.encode(test))
    assert [one["said"] for one in tested["texts"]] == [output.text for output in outputs]
    assert [(one["prompt"],) for one in tested["texts"]] == list(test.texts)
    assert [one["references"] for one in tested["texts"]] == [["good", "well"]] * 4
    page = write_summary(read(path), tmp_path / "results").read_text()
    assert "| asked | ours | people wrote |" in page
    assert f"| {tested['texts'][0]['prompt']} |" in page
    assert page.count("| good / well |") == 4
    assert "| written by | rouge_l | token_f1 | exact_match | n |" in page
