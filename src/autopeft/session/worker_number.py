"""How many workers a search has where its settings leave that to a measurement."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import psutil

from autopeft.session.session import Session
from autopeft.study.study import Study
from autopeft.training.chosen_precision import StepBench
from autopeft.training.chosen_workers import StepWorkerBench, WorkerBench, choose_workers
from autopeft.training.precision_choice import Precision
from autopeft.training.rate_sweep import middle
from autopeft.training.worker_choice import WORKERS, WorkerChoice
from autopeft.workers import available_cores, threads_of_workers


def with_workers(
    session: Session, study: Study, tell: Callable[[str], None], *, bench: WorkerBench | None = None
) -> Session:
    """`session` with the workers that a measurement chooses, if its settings leave that open; `study` keeps why.

    It is measured whenever a search begins or goes on, which may be on another machine. On a GPU there is one: several
    would share its memory, and `devices` gives each a card of its own.

    Args:
        tell: told in a line before the measurement, and of what was chosen.
        bench: what is measured; None for training steps of the session's own.
    """
    settings = session.settings
    if settings.workers != "auto":
        return session
    found = _measured(session, study, tell, bench) if settings.device == "cpu" else _ON_A_GPU
    study.note(WORKERS, found.as_dict())
    tell(f"workers {found}")
    return replace(session, settings=settings.with_changes(workers=found.workers))


_ON_A_GPU = WorkerChoice(1, "not measured on a GPU; `devices` gives each worker one of its own")


def _measured(session: Session, study: Study, tell: Callable[[str], None], bench: WorkerBench | None) -> WorkerChoice:
    """What a measurement on an architecture of middle size chooses."""
    settings, evaluator = session.settings, session.evaluator
    recipe = settings.recipe
    done = sum(trial.counts_as_finished for trial in study.trials(with_history=False))
    left = min(settings.trainings or session.total, session.total) - done
    if bench is None:
        steps = StepBench(evaluator, middle(session.space), settings.seed)
        precision: Precision = "bf16" if recipe.precision == "bf16" else "float32"
        backbone = evaluator.backbone
        bench = StepWorkerBench(steps, precision, backbone.device, backbone.hidden_size)
    return choose_workers(
        bench,
        cores=available_cores(),
        threads=lambda n: threads_of_workers(n, os.environ),
        free_bytes=psutil.virtual_memory().available,
        planned=max(0, left) * recipe.n_steps(evaluator.n_train),
        tell=tell,
    )
