"""Finals: who is invited, how they are trained, and what may be said of the winner."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import tiny
from autopeft.architecture import Architecture, Counts, Placement
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate, Changes
from autopeft.errors import BudgetError, NonFiniteFailure, SettingsError
from autopeft.finals import Band, Entry, Finalist, Heats, Plan, bands, invite, judge
from autopeft.finals.finalists import resized
from autopeft.finals.heats import Result, examples_of_a_run, examples_of_a_trial
from autopeft.network.build import count
from autopeft.objective import Measurement
from autopeft.objectives import lookup as lookup_cost
from autopeft.spaces.lattice import Configuration
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import BASELINES, Baseline
from autopeft.trial import Trial, TrialState


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.backbone("bert")


# -- who is invited ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "lora_all", "serial", "parallel", "prefix", "mam", "unipelt", "adapterdrop"])
def test_a_baseline_is_as_large_as_fits_and_no_larger(name: str, backbone: Backbone) -> None:
    for most in (2_000, 5_000, 20_000):
        fitted = resized(BASELINES[name], backbone, most)
        if fitted is None:
            continue
        units, architecture = fitted
        assert units is not None
        assert count(backbone, architecture).nominal <= most
        larger = replace(BASELINES[name], parts=tuple(
            (method, max(1, round(_base(size, backbone) * (units + 1) / _base(BASELINES[name].parts[0][1], backbone))))
            for method, size in BASELINES[name].parts
        ))  # fmt: skip
        assert count(backbone, larger.on(backbone)).nominal > most
        assert {item.size for item in architecture if item.method == BASELINES[name].parts[0][0]} == {units}


def _base(size: int | str, backbone: Backbone) -> int:
    return backbone.hidden_size // int(size[2:]) if isinstance(size, str) else size


def test_what_has_no_size_is_taken_as_it_is_or_not_at_all(backbone: Backbone) -> None:
    nominal = count(backbone, BASELINES["bitfit"].on(backbone)).nominal
    assert resized(BASELINES["bitfit"], backbone, nominal) == (None, BASELINES["bitfit"].on(backbone))
    assert resized(BASELINES["bitfit"], backbone, nominal - 1) is None
    assert resized(Baseline((("serial", 4),), roles=("nowhere",)), backbone, 10**6) is None


def test_a_budget_is_a_band_of_half_of_it_to_all_of_it_unless_it_names_a_range(backbone: Backbone) -> None:
    n = backbone.n_parameters
    half, own = bands(("1%", "0.2%-0.3%"), backbone)
    assert (half.name, half.least, half.most) == ("1%", n // 100 // 2, n // 100)
    assert own.least == int(n * 0.002)
    with pytest.raises(BudgetError, match="given once"):
        bands(("1%", "1.0%"), backbone)


def test_bands_are_of_the_study_s_cost_and_so_are_the_sizes_of_baselines(backbone: Backbone) -> None:
    (stored,) = bands(["1000-4000"], backbone, lookup_cost("stored-count"))
    assert (stored.least, stored.most) == (1000, 4000)
    (slow,) = bands(["20 ms"], backbone, lookup_cost("latency"))
    assert (slow.least, slow.most, slow.holds(15.0), slow.holds(None)) == (10, 20, True, False)

    def price(architecture: Architecture) -> float:
        return float(count(backbone, architecture).stored)

    fitted = resized(BASELINES["serial"], backbone, stored.most, price)
    assert fitted is not None
    assert price(fitted[1]) <= 4000 < count(backbone, fitted[1]).stored / (fitted[0] or 1) * ((fitted[0] or 1) + 1)


def _trial(number: int, size: int, value: float, backbone: Backbone, origin: str = "random") -> Trial:
    architecture = Architecture((Placement("encoder.0.ffn", "serial", size),))
    counts = count(backbone, architecture)
    found = Measurement({"accuracy": value}, "accuracy", counts, 1.0, 0, 0.1, "validation", extra={"steps": 3})
    return Trial(number, Configuration((size,)), architecture, TrialState.COMPLETE, origin, 0, found)


def test_the_best_of_a_band_are_invited_once_and_the_baselines_of_that_cost(backbone: Backbone) -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.8, 40: 1.0}
    trials = [_trial(i, size, value, backbone) for i, (size, value) in enumerate(values.items())]
    trials.append(_trial(5, 2, 0.95, backbone, origin="initial"))  # the same architecture, measured again
    scores = {trial.number: trial.measurement.value for trial in trials if trial.measurement is not None}
    band = Band("mine", 1, count(backbone, trials[3].architecture).nominal)
    invited = invite(backbone, trials, scores, band, 2, ("serial", "full"))
    assert [(f.name, f.found_by) for f in invited[:2]] == [("trial 5", "initial"), ("trial 3", "random")]
    assert [f.is_baseline for f in invited] == [False, False, True]
    assert invited[2].name == "serial:1"  # four units in one of three layers are less than two in each
    message = r"No measured trial has 1 parameters to 2 parameters \(none\); the trials have"
    with pytest.raises(BudgetError, match=message):
        invite(backbone, trials, scores, Band("none", 1, 2), 2)


def test_one_architecture_at_several_rates_is_one_finalist_at_whichever_rate_it_is_given(backbone: Backbone) -> None:
    plain = _trial(0, 2, 0.5, backbone)
    fast = replace(plain, number=1, changes=Changes(rate_factor=3.0, rate_factors=(("serial", 2.0),)))
    slow = replace(plain, number=2, changes=Changes(learning_rate=1e-4, rate_factors=(("serial", 2.0),)))
    band = Band("mine", 1, 10_000)
    invited = invite(backbone, [plain, fast, slow], {0: 0.5, 1: 0.7, 2: 0.6}, band, 3, ())
    assert [one.name for one in invited] == ["trial 1", "trial 0"]
    assert invited[0].candidate == Candidate(plain.architecture, Changes(rate_factors=(("serial", 2.0),)))


def test_baselines_have_as_many_examples_a_step_as_the_best_that_was_searched(backbone: Backbone) -> None:
    plain = _trial(0, 2, 0.5, backbone)
    other = replace(plain, number=1, changes=Changes(batch_factor=0.25, dropout_factor=0, rate_factor=3.0))
    invited = invite(backbone, [plain, other], {0: 0.5, 1: 0.7}, Band("mine", 1, 10_000), 2, ("serial",))
    own = Changes(batch_factor=0.25, dropout_factor=0)
    assert [one.candidate.changes for one in invited] == [own, Changes(), own]


# -- how they are trained ---------------------------------------------------------------------------------------


class Planted:
    """An evaluator whose values are known: by architecture, best at one learning rate, higher at some seeds."""

    def __init__(self, values: Mapping[str, float], best_rate: float = 1e-3, failing: str = "") -> None:
        self.values, self.best_rate, self.failing = values, best_rate, failing
        self.recipe, self.n_train, self.trained_runs = Recipe(steps=7, batch_size=4), 28, list[tuple[str, float, int]]()
        self.splits = SimpleNamespace(describe=lambda: {"data": "planted"}, test=range(100))
        self.backbone = SimpleNamespace(identity=lambda: {"weights": "planted"})

    def with_recipe(self, **changes: Any) -> Planted:
        other = object.__new__(Planted)
        other.__dict__.update(self.__dict__, recipe=replace(self.recipe, **changes))
        return other

    @contextmanager
    def trained(self, candidate: Candidate, seed: int) -> Iterator[Any]:
        name, rate = str(candidate.architecture), self.recipe.learning_rate
        self.trained_runs.append((name, rate, seed))
        if name == self.failing:
            raise NonFiniteFailure("The training loss is nan at step 3 of 7.")
        loss = 0.1 * abs(np.log10(rate / self.best_rate))
        value = self.values[name] - loss + 0.001 * (seed % 3)

        def measure(split: str = "validation", examples: Any = None) -> Measurement:
            shift = 0.01 if split == "test" else 0.0
            counts = Counts(1, 1, 1, 100)
            return Measurement({"f1": value + shift}, "f1", counts, 1.0, 0, 0.1, split, extra={"n_processed": 28})

        yield SimpleNamespace(measure=measure)


def _finalist(size: int, *, is_baseline: bool = False) -> Finalist:
    candidate = Candidate.of(Architecture((Placement("encoder.0.ffn", "serial", size),)))
    found_by = "baseline" if is_baseline else "random"
    return Finalist(f"{'uniform' if is_baseline else 'trial'} {size}", candidate, "1%", size, found_by)


FINALISTS = [_finalist(1), _finalist(2), _finalist(3), _finalist(4, is_baseline=True), _finalist(5, is_baseline=True)]
VALUES = {str(f.candidate.architecture): value for f, value in zip(FINALISTS, (0.7, 0.9, 0.8, 0.6, 0.5), strict=True)}


def _hold(planted: Planted, folder: Path | None = None, **changes: Any) -> tuple[Entry, ...]:
    plan = Plan(**{"learning_rates": (1e-4, 1e-3, 1e-2), "first": 2, "last": 4, **changes})
    return Heats(cast(Evaluator, planted), plan, folder).hold(FINALISTS)


def test_everybody_has_the_same_rates_and_seeds_and_the_better_half_of_each_side_goes_on() -> None:
    planted = Planted(VALUES)
    entries = _hold(planted)
    assert [entry.learning_rate for entry in entries] == [1e-3] * 5
    assert [len(entry.tried) for entry in entries] == [3] * 5
    assert [entry.is_last for entry in entries] == [False, True, True, True, False]
    assert [len(entry.runs) for entry in entries] == [2, 4, 4, 4, 2]
    assert len(planted.trained_runs) == len(set(planted.trained_runs)) == 5 * 4 + 3 * 2  # nothing is trained twice
    assert [entry.examples for entry in entries] == [28 * n for n in (4, 6, 6, 6, 4)]
    assert entries[1].validation == pytest.approx(0.9 + 0.001 * np.mean([40 % 3, 41 % 3, 42 % 3, 43 % 3]))


def test_rates_are_widened_towards_a_best_one_at_an_end() -> None:
    entries = _hold(Planted(VALUES, best_rate=1e-1), widen=1)
    assert [rate for rate, _ in entries[0].tried] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert entries[0].learning_rate == 1e-1


def test_finals_go_on_where_they_were_and_other_data_is_another_run(tmp_path: Path) -> None:
    first = Planted(VALUES)
    whole = _hold(first, tmp_path)
    runs = sorted(tmp_path.iterdir())
    # The name of a run is the same in every version, or finals that were begun would be trained again.
    assert runs[0].name == "0986f0715d1ffa9287b46b49.json"
    assert len(runs) == len(first.trained_runs)
    runs[0].unlink()
    runs[1].write_text("{")  # half a file of a full disk
    again = Planted(VALUES)
    assert _hold(again, tmp_path) == whole
    assert len(again.trained_runs) == 2
    other = Planted(VALUES)
    other.splits = SimpleNamespace(describe=lambda: {"data": "other"}, test=range(100))
    _hold(other, tmp_path)
    assert len(other.trained_runs) == len(first.trained_runs)


def test_a_trial_is_charged_what_it_has_processed_and_one_that_failed_in_full() -> None:
    whole = cast(Evaluator, SimpleNamespace(recipe=Recipe(epochs=2, batch_size=8), n_train=20))
    counts = Counts(1, 1, 1, 100)
    stopped = Measurement({"f1": 0.5}, "f1", counts, 1.0, 0, 0.0, "validation", extra={"n_processed": 12})
    assert (examples_of_a_trial(whole, stopped), examples_of_a_trial(whole, None)) == (12, 40)
    assert examples_of_a_run(whole) == 40


def test_one_that_fails_is_last_and_leaves_the_others_as_they_were() -> None:
    failing = str(FINALISTS[1].candidate.architecture)
    entries = _hold(Planted(VALUES, failing=failing))
    assert entries[1].validation == -np.inf
    assert "loss is nan at step 3" in entries[1].runs[0].failure
    assert [entry.is_last for entry in entries] == [True, False, True, True, False]
    sound = _hold(Planted(VALUES))
    assert entries[2].runs == sound[2].runs


@pytest.mark.parametrize("wrong", [{"learning_rates": ()}, {"learning_rates": (0.0,)}, {"first": 1}, {"last": 1}])
def test_a_plan_that_cannot_be_held(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Finals need"):
        Plan(**wrong)


# -- what may be said -------------------------------------------------------------------------------------------


def _entry(finalist: Finalist, values: list[float], validation: float = 0.5, *, is_last: bool = True) -> Entry:
    runs = tuple(Result(1e-3, 40 + i, validation, value, 28, 1.0) for i, value in enumerate(values))
    return Entry(finalist, ((1e-3, validation),), 1e-3, runs, is_last, 28 * len(values))


def test_a_clear_gain_over_the_best_baseline_is_said_with_its_interval() -> None:
    ours = _entry(_finalist(1), [0.90, 0.91, 0.905, 0.90, 0.91], 0.9)
    rival = _entry(_finalist(4, is_baseline=True), [0.80, 0.81, 0.80, 0.81, 0.805], 0.8)
    verdict = judge([ours, rival], "f1", 1000)
    assert verdict.is_searched_better
    assert verdict.choice is ours
    said = "1%: trial 1 is better than uniform 4, the best of the baselines. Difference of f1 on the test part"
    assert str(verdict).startswith(said)
    assert str(verdict).endswith("Use trial 1 (1 parameters).")
    (found,) = verdict.comparisons
    assert found.difference.mean == pytest.approx(0.1)
    assert found.corrected == found.difference.p_value


def test_a_difference_within_noise_means_to_use_the_baseline() -> None:
    ours = _entry(_finalist(6), [0.83, 0.80, 0.84], 0.9)
    rival = _entry(_finalist(4, is_baseline=True), [0.82, 0.81, 0.82], 0.8)
    verdict = judge([ours, rival], "f1", 1000)
    assert verdict.choice is rival
    (found,) = verdict.comparisons
    assert found.finding == "cannot tell"
    assert "no better than uniform 4 here, so far as trial 6 shows: these runs cannot tell the two apart" in str(
        verdict
    )
    assert "would have been seen in four of five cases" in str(verdict)
    # (2.8 * 0.0153 / 0.01)^2 = 18.3 and two more; 0.0153 is the standard deviation of +0.01, -0.01, +0.02.
    assert "(about 21 seeds would tell a difference of 0.01)" in str(verdict)
    assert str(verdict).endswith("Use uniform 4 (4 parameters).")


def test_equal_is_said_where_the_interval_lies_within_the_margin_alone() -> None:
    ours = _entry(_finalist(1), [0.820, 0.821, 0.819, 0.820, 0.820], 0.9)
    rival = _entry(_finalist(4, is_baseline=True), [0.820, 0.820, 0.820, 0.821, 0.819], 0.8)
    verdict = judge([ours, rival], "f1", 1000)
    assert [item.finding for item in verdict.comparisons] == ["equal"]
    assert "no better than uniform 4 here: trial 1 is equal to it within 0.01." in str(verdict)
    assert [item.finding for item in judge([ours, rival], "f1", 1000, margin=0.001).comparisons] == ["cannot tell"]


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_errors_in_the_labels_unit_are_judged_alike_in_every_unit(unit: float) -> None:
    def errors(values: list[float]) -> list[float]:
        return [-value * unit for value in values]

    rival = _entry(_finalist(4, is_baseline=True), errors([0.80, 0.82, 0.79]), -0.8 * unit)
    better = _entry(_finalist(6), errors([0.10, 0.11, 0.09]), -0.1 * unit)
    verdict = judge([better, rival], "neg_mae", 20)
    assert verdict.is_searched_better
    even = _entry(_finalist(6), errors([0.8001, 0.8199, 0.7902]), -0.8 * unit)
    verdict = judge([even, rival], "neg_mae", 20)
    assert verdict.comparisons[0].margin == pytest.approx(0.01 * 0.8033 * unit, rel=1e-3)
    assert "(0.01 of the error of uniform 4)." in str(verdict)


def test_the_cheapest_of_what_is_not_shown_to_be_worse_is_what_to_use() -> None:
    best = _entry(_finalist(9, is_baseline=True), [0.820, 0.830, 0.825], 0.9)
    ours = _entry(_finalist(3), [0.818, 0.829, 0.826], 0.85)
    small = _entry(_finalist(2, is_baseline=True), [0.799, 0.842, 0.770], 0.8)  # not shown to be worse, but by its mean
    early = _entry(_finalist(1, is_baseline=True), [0.82, 0.83], 0.7, is_last=False)
    verdict = judge([ours, best, small, early], "f1", 1000)
    assert verdict.choice is ours
    assert verdict.instead is not None
    assert (verdict.instead.baseline, verdict.instead.finding) == ("uniform 9", "equal")
    assert str(verdict).endswith(
        "Use trial 3 (3 parameters): it costs less than uniform 9 and is not shown to be worse "
        "(-0.0007, -0.0045 to +0.0031)."
    )
    dear = replace(ours, finalist=replace(ours.finalist, nominal=10))
    assert judge([dear, best, small, early], "f1", 1000).choice is best
    # Where the band's cost is known of all it decides, and not the number of parameters.
    priced = [replace(one, finalist=replace(one.finalist, cost=cost)) for one, cost in ((ours, 7.0), (best, 5.0))]
    assert judge(priced, "f1", 1000).choice is priced[1]


def test_a_worse_one_is_called_worse() -> None:
    ours = _entry(_finalist(1), [0.70, 0.71, 0.70, 0.71], 0.9)
    rival = _entry(_finalist(4, is_baseline=True), [0.80, 0.80, 0.81, 0.81], 0.8)
    verdict = judge([ours, rival], "f1", 1000)
    assert "uniform 4 is better than trial 1, the best that was found." in str(verdict)
    assert verdict.choice is rival


def test_several_baselines_are_corrected_for_and_one_that_is_better_forbids_the_claim() -> None:
    ours = _entry(_finalist(1), [0.85, 0.86, 0.85, 0.86, 0.85], 0.9)
    best = _entry(_finalist(4, is_baseline=True), [0.80, 0.80, 0.81, 0.80, 0.81], 0.8)
    dark = _entry(_finalist(5, is_baseline=True), [0.95, 0.95, 0.96, 0.95, 0.96], 0.7)
    verdict = judge([ours, best, dark], "f1", 1000)
    p_values = [item.difference.p_value for item in verdict.comparisons]
    assert [item.finding for item in verdict.comparisons] == ["better", "worse"]
    assert all(c.corrected is not None and p is not None and c.corrected >= p
               for c, p in zip(verdict.comparisons, p_values, strict=True))  # fmt: skip
    assert not verdict.is_searched_better
    assert "trial 1 is better than uniform 4, but worse than uniform 5." in str(verdict)
    assert json.loads(json.dumps(verdict.as_dict()))["choice"] == "uniform 5"


def test_who_was_in_the_last_round_goes_before_who_was_not() -> None:
    early = _entry(_finalist(1), [0.9, 0.9], 0.95, is_last=False)
    late = _entry(_finalist(2), [0.8, 0.8, 0.8], 0.9)
    assert judge([early, late], "f1", 10).winner is late
