"""What a search would be: its space, its cost, its time. Nothing is written, a few steps are trained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autopeft import samplers
from autopeft.architecture import Architecture
from autopeft.cli.total import Total
from autopeft.objective import replaced, shares
from autopeft.session import Session, answers_budgets
from autopeft.settings import Settings
from autopeft.tasks._protocols import data_lines
from autopeft.training.peak import predict_peak
from autopeft.training.rate_sweep import middle
from autopeft.training.recipe import Recipe
from autopeft.training.tokens import token_lines

_DRAWS = 4096


def forecast(session: Session, steps: int = 5, total: Total | None = None) -> dict[str, Any]:
    """Facts about the search that the settings describe, JSON-ready.

    Args:
        steps: training steps of an architecture of middle size that are timed; 0 times none.
        total: of the search with its finals; None where there are to be none.
    """
    total = total or Total.of(session)
    space, backbone, settings = session.space, session.backbone, session.settings
    low, high = space.cost_range()
    facts: dict[str, Any] = {
        "model": f"{backbone.name}, {backbone.n_parameters:,} parameters, hidden size {backbone.hidden_size}",
        "task": f"{session.task.name}, {session.task.objective}",
        **data_lines(session.evaluator.splits.describe()),
        **token_lines(session.evaluator),
        "train_examples": session.evaluator.n_train,
        "validation_examples": len(session.evaluator.splits.validation),
        "choices": space.n_choices,
        "cardinality": space.cardinality,
        "valid": space.n_valid,
        "nominal_parameters": [low, high],
        **_shares(session, low, high),
        "cost": f"{session.evaluator.cost.label}; known {session.evaluator.cost.known}",
        "budget": _budget(session),
        "share_within_budget": _share(session),
        "precision": _precision(session),
        **({} if settings.learning_rates else {"learning_rate": _rate(settings)}),
        "initial_design": len(session.initial),
        **({"warm_start": len(session.warm)} if session.warm else {}),
        "trials": session.total,
        "steps_a_trial": settings.recipe.n_steps(session.evaluator.n_train),
        "learning_rates": total.rates_told,
    }
    if total.runs:
        facts["finals"] = total.finals_told
    if steps:
        facts.update(_times(session, steps, total))
    if settings.workers == "auto":
        facts["workers"] = "chosen by a measurement; the time is that of one process, at the most"
    if settings.promotion != "all":
        facts["promotion"] = f"{settings.promotion}; the time is that without it, at the most"
    if steps and answers_budgets(settings.sampler):
        facts["not_in_the_time"] = f"what {settings.sampler} itself trains before it answers a budget"
    return facts


def _budget(session: Session) -> str:
    """What limits the architectures: a sampler's own budgets, or that of the space."""
    own = samplers.settings_of(session.sampler()).get("budgets")
    return ", ".join(own) if own else str(session.space.budget or "none")


def _shares(session: Session, low: int, high: int) -> dict[str, list[float]]:
    """What records say of counts beside them, from the cheapest to the dearest architecture."""
    counts = session.evaluator.counts(Architecture(()))
    ends = [shares(replaced(counts, n)) for n in (low, high)]
    return {name: [end[name] for end in ends] for name in ends[0]}


def _precision(session: Session) -> str:
    if session.precision is not None:
        return str(session.precision)
    return "chosen by a measurement" if session.is_precision_open else session.settings.recipe.precision


def _rate(settings: Settings) -> str:
    return f"{settings.recipe.learning_rate:g}" + (", by the rule for this width" if settings.rates == "rule" else "")


def _share(session: Session) -> float:
    counts = np.array([len(choice.values) for choice in session.space.choices])
    # By draws, as most spaces have more points than can be gone through.
    rows = np.random.default_rng(0).integers(0, counts, size=(_DRAWS, len(counts)))
    return float(session.space.feasible(rows).mean())


def _times(session: Session, steps: int, total: Total) -> dict[str, float]:
    # The time is that of real steps on this machine, forward, backward and update, and not a guess from sizes.
    # Without a limit on memory, as it is told here what one has to be.
    evaluator = session.evaluator.with_recipe(steps=steps).with_memory(None)
    peak = predict_peak(evaluator, [middle(session.space)])
    found = evaluator(middle(session.space), session.settings.seed)
    per_step = found.extra["train_seconds"] / steps
    evaluation = found.seconds - found.extra["train_seconds"]

    def run(recipe: Recipe, n_train: int, n_test: int) -> float:
        n_steps, an_epoch = recipe.n_steps(n_train), math.ceil(n_train / recipe.batch_size)
        # The test part is answered once, at the pace at which the validation part is answered at every evaluation.
        answered = math.ceil(n_steps / max(1, recipe.evaluate_every * an_epoch)) + n_test / max(1, n_validation)
        return float(per_step * n_steps + answered * evaluation)

    n_validation = len(session.evaluator.splits.validation)
    trial = run(session.settings.recipe, evaluator.n_train, 0)
    # Rates are tried before there are workers to share it, one run after the other; at the most as many as are told.
    hours = (total.rates[1] + total.trials) * trial / session.settings.n_workers / 3600
    found_times = {"seconds_a_step": per_step, "seconds_a_trial": trial, "hours_of_training": hours}
    found_times |= {"peak_memory_predicted": peak.total, "peak_memory_of_these_steps": found.peak_memory}
    if total.after is None:
        return found_times
    final = run(total.after.recipe, total.n_train, len(session.evaluator.splits.test))
    return {**found_times, "seconds_a_run_of_the_finals": final, "hours_of_finals_at_most": total.runs * final / 3600}
