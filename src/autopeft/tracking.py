"""Experiment trackers (TensorBoard, Weights & Biases, MLflow and so on), through accelerate's tracker classes.

Each process of a search is a run of its own, which logs the trials that it measured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import tracking
from accelerate.utils import LoggerType

from autopeft.errors import SettingsError
from autopeft.objective import shares
from autopeft.reading import followed
from autopeft.study.events import Event, Told
from autopeft.trial import Trial

_log = logging.getLogger(__name__)

PROJECT = "autopeft"
"""What trackers that sort runs by project call it."""


def names() -> tuple[str, ...]:
    """Every tracker that can be named, installed or not."""
    return tuple(sorted(map(str, tracking.LOGGER_TYPE_TO_CLASS)))


def check(wanted: Sequence[str]) -> None:
    """Raises:
    SettingsError: a tracker is unknown, or its package is not installed.
    """
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        raise SettingsError(f"`trackers` are some of {', '.join(names())}, but got {', '.join(unknown)}.")
    there = {str(LoggerType(item)) for item in tracking.get_available_trackers()}
    missing = [name for name in wanted if name not in there]
    if missing:
        raise SettingsError(f"The packages of these trackers are not installed: {', '.join(missing)}.")


@contextmanager
def tracked(
    wanted: Sequence[str],
    folder: str | Path,
    settings: Mapping[str, Any],
    then: Callable[[Event], None] | None = None,
) -> Iterator[Callable[[Event], None] | None]:
    """Gives what is to be told of events: it logs each measured trial and passes the event on to `then`.

    Args:
        wanted: names of trackers; without any, `then` is given back.
        folder: of the study; trackers that write files do so in ``logs`` inside it.
        settings: of the search, told to the trackers at the start.

    Raises:
        SettingsError: see `check`.
    """
    check(wanted)
    if not wanted:
        yield then
        return
    trackers = [_started(name, Path(folder), settings) for name in wanted]

    def tell(event: Event) -> None:
        if isinstance(event, Told):
            for tracker in trackers:
                _safely(tracker, partial(tracker.log, values_of(event.trial), step=event.trial.number))
        if then is not None:
            then(event)

    try:
        yield tell
    finally:
        for tracker in trackers:
            _safely(tracker, tracker.finish)


def values_of(trial: Trial) -> dict[str, float]:
    """What is logged of a measured trial: its metrics, at a rung those of the rung, three counts, costs, seconds."""
    found = trial.latest
    if found is None:
        return {}
    counts = {name: float(value) for name, value in found.counts.as_dict().items() if name != "backbone"}
    return {
        **{f"{found.split}/{name}": float(value) for name, value in found.metrics.items()},
        **{f"parameters/{name}": value for name, value in counts.items()},
        **{f"parameters/{name}": value for name, value in shares(found.counts).items()},
        **{f"cost/{name}": float(record["value"]) for name, record in found.costs.items()},
        **({} if trial.rung is None else {"rung": float(trial.rung)}),
        "seconds/training": found.seconds,
        "seconds/proposal": trial.proposal_seconds,
    }


def _started(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    kind: Any = tracking.LOGGER_TYPE_TO_CLASS[name]
    if kind.requires_logging_directory:
        # With the process in its name: two writers of one run of TensorBoard would draw a curve that jumps between
        # them.
        tracker = kind(f"{followed(folder).name}-{os.getpid()}", folder / "logs")
    else:
        tracker = kind(PROJECT)
    tracker.start()
    _safely(tracker, lambda: tracker.store_init_configuration(_flat(settings)))
    return tracker


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings with dots; what is no number, text or truth value as text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return found


def _safely(tracker: Any, act: Callable[[], None]) -> None:
    """A tracker that fails, its server gone perhaps, must not cost a trial."""
    try:
        act()
    except Exception as error:
        _log.warning("The tracker %r failed: %s: %s", tracker.name, type(error).__name__, error)
