"""What every promotion promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autopeft import promotions
from autopeft.errors import SettingsError
from autopeft.fidelity import FULL, Fidelity, Reached
from autopeft.objectives import NOMINAL
from autopeft.promotions._promotion import Promotion
from autopeft.testing._promise import keep, promise, promises_in, refuses
from autopeft.testing.lattice import accuracy, autopeft_space, failed, measurement, running
from autopeft.trial import Trial, TrialState

_RUNGS = (Fidelity(1.0), Fidelity(3.0), FULL)
_STANDING = (30, 10, 4)
"""Trials that stand at each of the rungs."""


def _trial(number: int, n_reached: int) -> Trial:
    """A trial that has passed so many rungs, each time a little better."""
    space = autopeft_space()
    configuration = space.sample(np.random.default_rng(number), 1)[0]
    values = [accuracy(space, configuration) - 0.05 * (len(_RUNGS) - rung) for rung in range(n_reached)]
    passed = [Reached(rung, 1, 1.0, one, 1.0).as_dict() for rung, one in zip(_RUNGS, values, strict=False)]
    found = replace(measurement(space, configuration, values[-1]), extra={"rungs": passed})
    begun = replace(running(space, number, configuration), rung=n_reached - 1)
    if n_reached == len(_RUNGS):
        return replace(begun, state=TrialState.COMPLETE, measurement=found)
    return replace(begun, state=TrialState.PAUSED, so_far=found)


def _trials() -> list[Trial]:
    """A search in the middle: trials at every rung, one that is begun, one that has failed."""
    # The cost of a trial is its architecture's, so that by chance cheap and dear ones stand at every rung.
    n_reached = [rungs for rungs, n in enumerate(_STANDING, start=1) for _ in range(n)]
    found = [_trial(number, rungs) for number, rungs in enumerate(n_reached)]
    space = autopeft_space()
    more = space.sample(np.random.default_rng(len(found)), 2)
    return [*found, running(space, len(found), more[0]), failed(space, len(found) + 1, more[1])]


def _built(name: str) -> Promotion:
    found = promotions.build(name)
    assert found is not None, f"{name} pauses nothing, so that there is nothing to check."
    return found


def _order(name: str, trials: Sequence[Trial]) -> list[int]:
    return _built(name).order(trials, NOMINAL)


@promise
def _its_name_is_its_own_and_unknown_options_are_refused(name: str) -> None:
    assert promotions.lookup(name).about
    assert promotions.lookup(name).name == _built(name).name
    with refuses(SettingsError, "no_such_option"):
        promotions.build(name, {"no_such_option": 1})


@promise
def _only_those_who_wait_go_on_and_each_once(name: str) -> None:
    trials = _trials()
    waiting = {trial.number for trial in trials if trial.state is TrialState.PAUSED}
    found = _order(name, trials)
    assert found, "Of forty trials that wait at two rungs one at least is good enough to go on."
    assert set(found) <= waiting
    assert len(set(found)) == len(found)


@promise
def _who_stands_highest_goes_on_first(name: str) -> None:
    # What is nearest to its end is what the least has to be trained for.
    trials = _trials()
    rungs = [trials[number].rung for number in _order(name, trials)]
    assert rungs == sorted(rungs, key=lambda rung: -(rung or 0))


@promise
def _the_trials_alone_decide(name: str) -> None:
    """No state is kept and no chance drawn: a resumed search continues what the uninterrupted one would have."""
    trials = _trials()
    one = _built(name)
    assert one.order(trials, NOMINAL) == one.order(trials, NOMINAL) == _order(name, trials)


@promise
def _nothing_goes_on_where_nothing_waits(name: str) -> None:
    assert _order(name, []) == []
    assert _order(name, [trial for trial in _trials() if trial.state is not TrialState.PAUSED]) == []


@promise
def _samplers_see_every_trial_and_none_that_is_paused(name: str) -> None:
    trials = _trials()
    seen = _built(name).view(trials)
    assert [trial.number for trial in seen] == [trial.number for trial in trials]
    assert all(trial.state is not TrialState.PAUSED for trial in seen)
    # What was measured at its end is no guess, and neither is that a trial failed.
    told = [trial for trial in trials if trial.is_complete or trial.failure is not None]
    assert all(seen[trial.number] == trial for trial in told)


PROMISES = promises_in(dict(vars()))
"""What is promised of a promotion, by its name."""


def check_promotion(name: str) -> list[str]:
    """Check what a promotion promises; the names of the promises.

    Args:
        name: of a member, or the dotted path of one of your own, such as ``my_lab.rungs:MINE``.

    Raises:
        ExceptionGroup: some promises are not kept.
        UnknownNameError, SettingsError: there is no such promotion.
    """
    promotions.lookup(name)
    return keep(name, PROMISES, name)
