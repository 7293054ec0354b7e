"""What every sampler that reads trials promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from autopeft.architecture import ParameterBudget
from autopeft.errors import SettingsError, SpaceExhaustedError
from autopeft.samplers import Sampler, build, lookup, settings_of
from autopeft.samplers.random import initial_design
from autopeft.spaces.dials import with_dials
from autopeft.spaces.lattice import Axis, Configuration, SearchSpace
from autopeft.testing._promise import keep, promise, promises_in, refuses
from autopeft.testing.lattice import (
    FakeBackbone,
    FakeMethod,
    autopeft_space,
    complete,
    failed,
    history,
    running,
    tiny_space,
)
from autopeft.trial import Trial


def small_space(budget: ParameterBudget | None = None) -> SearchSpace:
    """Three layers and three sizes of four values: 512 points."""
    return autopeft_space(3, 48, sizes=(0, 1, 6, 48), budget=budget)


def made(name: str, space: SearchSpace, seed: int = 7) -> Sampler:
    """The sampler with its default options."""
    return build(name, space, seed)


def identities(space: SearchSpace, configurations: Sequence[Configuration]) -> list[tuple[int, ...]]:
    """What makes architectures equal."""
    return [space.identity(configuration) for configuration in configurations]


@promise
def _proposals_are_new_distinct_and_feasible(name: str) -> None:
    space = small_space()
    trials = history(space, initial_design(space, 1, 8))
    asked = made(name, space).ask(trials, 5)
    assert len(asked) == 5
    assert len({*identities(space, asked)}) == 5
    assert not {*identities(space, asked)} & {*identities(space, [t.configuration for t in trials])}
    assert all(space.is_feasible(configuration) for configuration in asked)
    assert all(
        0 <= index < len(choice.values)
        for configuration in asked
        for index, choice in zip(configuration.indices, space.choices, strict=True)
    )


@promise
def _proposals_are_new_once_a_model_has_taken_over(name: str) -> None:
    # 30 trials are more than any default start-up; among them a failed and a running one.
    space = small_space(ParameterBudget(most=20_000))
    design = initial_design(space, 9, 30)
    trials = [*history(space, design[:28]), failed(space, 28, design[28]), running(space, 29, design[29])]
    asked = made(name, space).ask(trials, 3)
    assert len({*identities(space, asked)} - {*identities(space, design)}) == 3
    assert all(space.is_feasible(configuration) for configuration in asked)
    assert made(name, space).ask(trials, 3) == asked


@promise
def _rates_and_scales_are_searched_like_sizes(name: str) -> None:
    plain = small_space(ParameterBudget(most=20_000))
    whole = {"batch_factors": (0.25, 1), "dropout_factors": (0, 1)}
    space = with_dials(
        plain, rate_factors={"all": (1 / 3, 1, 3), "prefix": (1, 3)}, scales={"all": (0.5, 1, 2)}, **whole
    )
    design = initial_design(space, 9, 24)  # more than any default start-up
    trials = [*history(space, design[:22]), failed(space, 22, design[22]), running(space, 23, design[23])]
    asked = made(name, space).ask(trials)
    candidates = {space.candidate(configuration) for configuration in asked}
    assert len(candidates - {trial.candidate for trial in trials}) == 1
    assert all(space.is_feasible(configuration) for configuration in asked)


@promise
def _every_candidate_is_proposed_once_whatever_stands_at_idle_dials(name: str) -> None:
    # Two methods that are there or not, and a scale of one of them: 3 architectures, 5 candidates, 6 valid points.
    axes = [Axis(FakeMethod(method, ("ffn",), 8), (0, 1)) for method in ("serial", "parallel")]
    space = SearchSpace.build(FakeBackbone(1, 8), axes, layers="all")
    space = with_dials(space, rate_factors={}, scales={"parallel": (1, 2)})
    sampler, trials = made(name, space), list[Trial]()
    for _ in range(5):
        (configuration,) = sampler.ask(trials)
        trials.append(complete(space, len(trials), configuration, 0.5 + 0.01 * len(trials), name))
    assert len({trial.candidate for trial in trials}) == 5
    with refuses(SpaceExhaustedError, "very feasible architecture"):
        sampler.ask(trials)


@promise
def _a_tight_budget_is_respected(name: str) -> None:
    space = small_space(ParameterBudget(most=1_500, least=200))
    trials = history(space, initial_design(space, 2, 6))
    for configuration in made(name, space).ask(trials, 4):
        assert 200 <= space.cost(configuration) <= 1_500


@promise
def _the_same_seed_and_history_give_the_same_answer(name: str) -> None:
    space = small_space()
    trials = history(space, initial_design(space, 3, 6))
    assert made(name, space).ask(trials, 3) == made(name, space).ask(trials, 3)


@promise
def _a_resumed_search_goes_on_like_the_uninterrupted_one(name: str) -> None:
    space = small_space()

    def run(sampler: Sampler, trials: list[Trial], until: int, restart: bool) -> list[Trial]:
        while len(trials) < until:
            chosen = made(name, space) if restart else sampler
            (configuration,) = chosen.ask(trials)
            value = 0.5 + 0.01 * sum(configuration.indices)
            trials.append(complete(space, len(trials), configuration, value, name))
        return trials

    start = history(space, initial_design(space, 4, 5))
    whole = run(made(name, space), list(start), 8, restart=False)
    parts = run(made(name, space), list(start), 8, restart=True)
    assert [t.configuration for t in whole] == [t.configuration for t in parts]


@promise
def _pending_and_failed_trials_are_survived_and_not_repeated(name: str) -> None:
    space = small_space()
    design = initial_design(space, 5, 12)
    trials = history(space, design[:4])
    trials += [running(space, 4 + i, c) for i, c in enumerate(design[4:8])]
    trials += [failed(space, 8 + i, c) for i, c in enumerate(design[8:])]
    asked = made(name, space).ask(trials, 3)
    assert not {*identities(space, asked)} & {*identities(space, design)}


@promise
def _few_or_no_measurements_are_enough(name: str) -> None:
    for n_measured in (0, 1, 2):
        space = small_space()
        design = initial_design(space, 6, 4)
        trials = history(space, design[:n_measured])
        trials += [failed(space, len(trials), design[-1])]
        assert len(made(name, space).ask(trials, 2)) == 2


@promise
def _equal_values_are_no_obstacle(name: str) -> None:
    space = small_space()
    trials = history(space, initial_design(space, 8, 6), lambda space, configuration: 0.5)
    assert len(made(name, space).ask(trials, 2)) == 2


@promise
def _a_preempted_architecture_may_be_proposed_again(name: str) -> None:
    space = tiny_space()
    *rest, lost = space.enumerate()
    trials = history(space, rest, lambda space, configuration: 0.5 + 0.01 * configuration.indices[0])
    trials.append(failed(space, len(trials), lost, "preempted"))
    assert made(name, space).ask(trials, 1) == [lost]


@promise
def _a_tiny_space_is_exhausted_to_the_last_point(name: str) -> None:
    space = tiny_space()
    sampler, trials = made(name, space), list[Trial]()
    for _ in range(space.n_valid):
        (configuration,) = sampler.ask(trials)
        trials.append(complete(space, len(trials), configuration, 0.5 + 0.01 * len(trials), name))
    assert {t.configuration for t in trials} == {*space.enumerate()}
    with refuses(SpaceExhaustedError, "very feasible architecture"):
        sampler.ask(trials)


@promise
def _fewer_come_back_when_fewer_are_left(name: str) -> None:
    space = tiny_space()
    trials = history(space, [*space.enumerate()][:4], lambda space, configuration: 0.5)
    assert len(made(name, space).ask(trials, 5)) == 2


@promise
def _unknown_options_are_named(name: str) -> None:
    with refuses(SettingsError, "no_such_option"):
        build(name, small_space(), 0, {"no_such_option": 1})


@promise
def _the_defaults_that_it_tells_are_those_it_has(name: str) -> None:
    told = lookup(name).defaults
    assert told is None or asdict(told) == settings_of(made(name, small_space()))


@promise
def _a_negative_seed_is_refused(name: str) -> None:
    with refuses(SettingsError, "seed must be a whole number of at least 0, but got -1"):
        build(name, small_space(), -1)


PROMISES = promises_in(dict(vars()))
"""What is promised of a sampler that reads trials, by its name."""


def check_sampler(name: str) -> list[str]:
    """Check what a sampler promises; the names of the promises.

    Args:
        name: of a member, or the dotted path of one of your own, such as ``my_lab.samplers:MINE``.

    Raises:
        ExceptionGroup: some promises are not kept.
        AssertionError: it reads no trials: `check_search` is for those.
        UnknownNameError, SettingsError: there is no such sampler.
    """
    assert lookup(name).reads_trials, f"{name} answers budgets by a search of its own: check_search is for those."
    return keep(name, PROMISES, name)
