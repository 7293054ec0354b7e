"""A card of rates by method, on a planted landscape: each method has a best rate of its own, and it is found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import tiny
from autopeft.architecture import Architecture, Counts, ParameterBudget, Placement
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError, NonFiniteFailure, SettingsError
from autopeft.methods import lookup
from autopeft.objective import Epoch, Measurement
from autopeft.pictures.canvas import picture, svg
from autopeft.pictures.rates import rates_data
from autopeft.session import Session
from autopeft.spaces.lattice import Axis, SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_card import CARD, CardMaker, CardRun, RateCard, alone
from autopeft.training.recipe import Recipe
from autopeft.training.together import rated_parameters
from small_case import Case

RATES = (3e-4, 1e-3, 3e-3)


@dataclass
class Planted:
    """An evaluator whose accuracy falls by a tenth with every factor of ten between a rate and the method's best."""

    best: dict[str, float]
    recipe: Recipe = field(default_factory=lambda: Recipe(steps=30, batch_size=4))
    rungs: tuple[Any, ...] = ()
    checkpoints: object | None = None
    at_rung: Callable[[str, float], float] | None = None
    asked: list[tuple[str, float, int]] = field(default_factory=list)
    n_train: int = 40

    task = SimpleNamespace(objective="accuracy", baseline=lambda part: {"accuracy": 0.5})
    splits = SimpleNamespace(validation=range(100))

    def with_rungs(self, rungs: Any) -> Planted:
        return replace(self, rungs=tuple(rungs))

    def with_recipe(self, **changes: Any) -> Planted:
        return replace(self, recipe=replace(self.recipe, **changes))

    def rung_steps(self) -> tuple[int, ...]:
        return (10, 30) if self.rungs else (30,)

    def up_to(self, architecture: Architecture, seed: int, rung: int) -> Measurement:
        (method,), rate = architecture.methods, self.recipe.learning_rate
        self.asked.append((method, rate, rung))
        steps = self.rung_steps()[rung]
        value = 0.9 - 0.1 * abs(math.log10(rate / self.best[method]))
        if steps < 30 and self.at_rung is not None:
            value = self.at_rung(method, rate)
        if rate > 1:
            raise NonFiniteFailure("too fast")
        extra = {"steps": steps, "planned_steps": 30, "n_processed": 4 * steps}
        history = (Epoch(1.0, steps, 1.0, {}, 1.0),)
        counts = Counts(1, 1, 1, 100)
        return Measurement({"accuracy": value}, "accuracy", counts, 1.0, 0, 0.1, "validation", history, extra)


PARTS = {name: Architecture((Placement("encoder.0.ffn", name, 1),)) for name in ("slow", "fast")}


def maker(planted: Planted, **more: Any) -> CardMaker:
    return CardMaker(cast(Evaluator, planted), PARTS, RATES, 7, **more)


def test_each_method_gets_its_own_rate_and_edges_are_widened() -> None:
    planted = Planted({"slow": 1e-3, "fast": 2.7e-2})
    card = maker(planted).make()
    assert card.rates == {"slow": 1e-3, "fast": 2.7e-2}
    assert card.reference == pytest.approx(math.sqrt(2.7e-5), rel=0.01)
    changes = card.recipe_changes()
    recipe = Recipe(**changes)
    assert {n: recipe.learning_rate * f for n, f in recipe.rate_factors.items()} == pytest.approx(card.rates)
    # Of a method alone the head learns at the method's rate, as it did on the card; beside both at the mean of both.
    assert recipe.learning_rate * recipe.head_factor(["slow"]) == pytest.approx(1e-3)
    assert recipe.head_factor(["slow", "fast"]) == pytest.approx(1, rel=0.01)
    assert Recipe().head_factor(["slow"]) == 1


def test_the_slower_half_stops_at_the_rung_unless_it_is_beside_the_best() -> None:
    planted = Planted({"slow": 1e-3, "fast": 9e-3})
    card = maker(planted).make()
    assert [run.learning_rate for run in card.last_of("fast") if not run.is_full] == [3e-4]
    assert all(run.is_full for run in card.last_of("slow"))  # 1e-3 is the best, and both beside it are needed


def test_a_rate_that_is_misjudged_at_the_rung_is_found_all_the_same() -> None:
    planted = Planted({"slow": 3e-4, "fast": 3e-4}, at_rung=lambda method, rate: 0.5 + rate)
    assert maker(planted).make().rates == {"slow": 3e-4, "fast": 3e-4}


def test_the_cost_is_what_was_trained_and_going_on_from_a_rung_counts_once() -> None:
    planted = Planted({"slow": 1e-3, "fast": 1e-3}, checkpoints=object())
    card = maker(planted).make()
    assert card.cost.trainings == pytest.approx(6)  # all three rates of both, to the end
    assert card.cost.examples == 6 * 120
    fresh = maker(replace(planted, checkpoints=None)).make()
    assert fresh.cost.trainings == pytest.approx(8)  # nothing was kept, so that a third of each was done twice


def test_a_card_that_is_interrupted_trains_no_run_twice() -> None:
    planted, kept = Planted({"slow": 1e-3, "fast": 2.7e-2}), []

    def stop_after_five(run: CardRun, runs: Any) -> None:
        kept[:] = runs
        if len(runs) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker(planted, on_run=stop_after_five).make()
    again = replace(planted, asked=[])
    card = maker(again, runs=list(kept)).make()
    assert len(planted.asked) == 5
    assert not set(planted.asked) & set(again.asked)
    whole = maker(Planted({"slow": 1e-3, "fast": 2.7e-2})).make()
    assert card == whole
    assert RateCard.from_dict(json.loads(json.dumps(card.as_dict()))) == card


@pytest.mark.parametrize("best", [1e-5, 1e-1])
def test_a_card_goes_on_where_it_was_after_any_of_its_runs(best: float) -> None:
    """Both methods are best beyond an edge, so that rates are tried which the card did not begin with."""
    whole: list[CardRun] = []
    card = maker(Planted({"slow": best, "fast": best}), on_run=lambda run, runs: whole.append(run)).make()
    assert {run.learning_rate for run in card.runs} > set(RATES)
    for done in range(len(whole) + 1):
        again = Planted({"slow": best, "fast": best})
        assert maker(again, runs=whole[:done]).make() == card
        assert len(again.asked) == len(whole) - done


def test_a_method_without_a_signal_takes_the_mean_of_the_others() -> None:
    card = maker(Planted({"slow": 1e-3, "fast": 1e9})).make()
    assert card.silent == ("fast",)
    assert card.rates == {"slow": 1e-3, "fast": 1e-3}
    assert card.has_signal
    assert "fast 0.001 (-0.1569, no signal)" in str(card)


def test_where_nothing_can_be_trained_the_card_fails() -> None:
    with pytest.raises(AutopeftError, match="every learning rate of every method"):
        CardMaker(cast(Evaluator, Planted({"slow": 1, "fast": 1})), PARTS, (10.0, 30.0), 7).make()
    with pytest.raises(SettingsError, match="at least one learning rate"):
        CardMaker(cast(Evaluator, Planted({})), PARTS, (), 7).make()


def test_a_failed_rate_leads_to_smaller_ones() -> None:
    card = CardMaker(cast(Evaluator, Planted({"slow": 0.5, "fast": 0.5})), PARTS, (2.0, 8.0), 7).make()
    assert card.rates == {"slow": 0.5, "fast": 0.5}


def test_every_method_is_alone_in_all_layers_at_a_middle_size() -> None:
    backbone = tiny.backbone("bert")
    axes = [Axis(lookup("serial"), (0, 1, 2, 4, 8)), Axis(lookup("bitfit"))]
    space = SearchSpace.build(backbone, axes)
    parts = alone(space)
    assert {name: {item.size for item in one} for name, one in parts.items()} == {"serial": {4}, "bitfit": {1}}
    assert len(parts["serial"]) == 3
    tight = space.within(ParameterBudget(space.slots[0].cost.nominal.at(2) * 3))
    assert {item.size for item in alone(tight)["serial"]} == {2}


def test_a_search_makes_the_card_once_and_trains_at_its_rates(case: Case, tmp_path: Path) -> None:
    asked = case.settings(rates="card", learning_rates=[1e-3], recipe={"steps": 2, "batch_size": 8, "max_length": 16})
    session, lines = Session.build(asked), []
    with session.begin(tmp_path) as study:
        card = session.proxy(study, lines.append, tmp_path)
        assert isinstance(card, RateCard)
        assert set(card.architectures) == {"serial", "prefix"}
        assert len(lines) == len(card.runs) == 2
        assert session.proxy(study, lines.append) == card == RateCard.from_dict(dict(study.fact(CARD)))
        assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").rglob("*.safetensors"))
    tuned = session.tuned(card)
    with tuned.trained(Candidate(alone(session.space)["serial"]), 0) as run:
        _, factors = rated_parameters(run.attached, [], tuned.recipe)
        assert {round(f * tuned.recipe.learning_rate, 12) for f in factors} == {round(card.rates["serial"], 12)}


def test_the_picture_says_what_was_chosen() -> None:
    card = maker(Planted({"slow": 1e-3, "fast": 9e-3})).make()
    data = rates_data(card)
    assert data.alt == "accuracy by learning rate, each method alone. Chosen: slow 0.001, fast 0.009."
    assert [rate for rate, _ in data.stopped["fast"]] == [3e-4]
    assert svg(picture(data)).count("<path") > 5
