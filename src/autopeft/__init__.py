"""autopeft: searches parameter-efficient fine-tuning architectures and returns a Pareto front.

>>> import autopeft
>>> settings = autopeft.Settings(model="minilm", task="reviews/movies", train_limit=1000, trials=12, initial=6)
>>> study = autopeft.search(settings, "runs/reviews")
>>> study.front().at(0.5)  # the best point of at most 0.5 % of the backbone's parameters

Public names are imported when they are first used, so that ``import autopeft`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.architecture import Architecture, Counts, ParameterBudget, Placement
    from autopeft.backbones import Backbone
    from autopeft.candidate import Candidate, Changes
    from autopeft.errors import AutopeftError, InputError
    from autopeft.objective import Measurement, ParetoFront
    from autopeft.saved.export import to_peft
    from autopeft.saved.predict import predictions
    from autopeft.saved.save import load
    from autopeft.session import Session, search
    from autopeft.settings import Settings
    from autopeft.spaces.lattice import Axis, Configuration, SearchSpace
    from autopeft.study.study import Study
    from autopeft.tasks._task import Task
    from autopeft.training.evaluator import Evaluator
    from autopeft.training.recipe import Recipe
    from autopeft.training.retraining import baseline, retrain
    from autopeft.trial import Trial

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "AutopeftError",
    "Axis",
    "Backbone",
    "Candidate",
    "Changes",
    "Configuration",
    "Counts",
    "Evaluator",
    "InputError",
    "Measurement",
    "ParameterBudget",
    "ParetoFront",
    "Placement",
    "Recipe",
    "SearchSpace",
    "Session",
    "Settings",
    "Study",
    "Task",
    "Trial",
    "baseline",
    "load",
    "predictions",
    "retrain",
    "search",
    "to_peft",
]

_HOMES = {
    "architecture": ("Architecture", "Counts", "ParameterBudget", "Placement"),
    "backbones": ("Backbone",),
    "candidate": ("Candidate", "Changes"),
    "errors": ("AutopeftError", "InputError"),
    "training.evaluator": ("Evaluator",),
    "saved.export": ("to_peft",),
    "objective": ("Measurement", "ParetoFront"),
    "saved.predict": ("predictions",),
    "training.retraining": ("baseline", "retrain"),
    "saved.save": ("load",),
    "session": ("Session", "search"),
    "settings": ("Settings",),
    "spaces.lattice": ("Axis", "Configuration", "SearchSpace"),
    "study.study": ("Study",),
    "tasks": ("Task",),
    "training.recipe": ("Recipe",),
    "trial": ("Trial",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"autopeft.{module}"), name)
    raise AttributeError(f"module 'autopeft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
