"""What every sampler needs before it proposes: its random numbers, what is taken, and its options."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from autopeft.errors import SettingsError
from autopeft.spaces.lattice import SearchSpace
from autopeft.trial import Trial

_log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT", bound=Any)


def generator(seed: int, trials: Sequence[Trial]) -> np.random.Generator:
    """Random numbers that depend on the seed and on how many trials there are, and on nothing else.

    A study that was stopped and resumed has the same trials, so it draws what the uninterrupted one would have.
    """
    return np.random.default_rng([seed, len(trials)])


def check_seed(seed: int) -> int:
    """`seed`, when it is a whole number of at least 0.

    Raises:
        SettingsError: it is not.
    """
    # True is a whole number to Python, and nobody who writes it means the seed 1.
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"A sampler's seed must be a whole number of at least 0, but got {seed!r}.")
    return seed


def taken(space: SearchSpace, trials: Sequence[Trial]) -> set[tuple[int, ...]]:
    """Identities of the architectures that are measured, running or failed for good."""
    return {space.identity(trial.configuration) for trial in trials if trial.is_taken}


def with_options(settings: SettingsT, options: Mapping[str, Any], sampler: str) -> SettingsT:
    """The frozen dataclass `settings` with `options` in place of its own values.

    Raises:
        SettingsError: options that the sampler does not have, all of them named together with the nearest.
    """
    known = [item.name for item in fields(settings)]
    unknown = []
    for name in sorted(set(options) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        unknown.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if unknown:
        raise SettingsError(
            f"The sampler {sampler!r} has no option {', '.join(unknown)}. It has: {', '.join(known) or 'none'}."
        )
    changed: SettingsT = replace(settings, **options)
    return changed


@contextmanager
def quiet(seed: int) -> Iterator[None]:
    """Fix torch's global random numbers inside, restore them after, and send warnings to the log.

    BoTorch draws from the global generator (new starting values after a failed fit, pruning of the baseline), and
    warns of constant data, added jitter, its own imports, or a compiler that is missing: no error of the user's.
    Optuna warns of what is experimental.
    """
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
        # Python shows a warning once a place, and then the log would depend on what ran before.
        warnings.simplefilter("always")
        torch.manual_seed(seed)
        yield
    for warning in {str(item.message): item for item in caught}.values():
        _log.debug("%s: %s", warning.category.__name__, warning.message)
