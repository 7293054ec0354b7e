"""The processes of a search: its own, its workers, and those that join a study that another one has begun."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from autopeft import settings as settings_module
from autopeft.masking import STORAGE_VARIABLE
from autopeft.session.begun import as_begun
from autopeft.session.precision import settled
from autopeft.session.session import Session, has_begun, place_of_study
from autopeft.session.worker_number import with_workers
from autopeft.settings import Settings
from autopeft.study.events import Event, Failed, Told
from autopeft.study.study import Study
from autopeft.training.rate_card import Signal
from autopeft.trial import Trial
from autopeft.workers import run_workers

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""How long the study is left alone between two looks at what workers have ended."""


def search(settings: Settings, folder: str | Path, on_event: Callable[[Event], None] | None = None) -> Study:
    """Run (or continue) a search and return its study.

    Args:
        settings: what to search; `Settings.trials` is a total, so the same call continues.
        folder: where the study lives.
        on_event: told of every trial; with several workers of their ends only.

    Raises:
        InputError: the settings cannot be used; nothing has been written.
        ProposalFailure: a sampler that trains ran into NaN or out of memory; the study keeps what was measured.
    """
    session = settled(Session.build(as_begun(settings, folder), is_begun=has_begun(folder)), folder, tell=log.info)
    study = session.begin(folder)
    if session.precision is not None:
        log.info("precision %s", session.precision)
    # In this process and before there are workers, who read from the study which rate was chosen.
    signal = session.proxy(study, folder=folder)
    if signal is not None:
        log.info("%s", signal)
    carry_out(with_workers(session, study, log.info), study, signal, folder, on_event)
    return study


def carry_out(
    session: Session,
    study: Study,
    signal: Signal | None,
    folder: str | Path,
    on_event: Callable[[Event], None] | None = None,
    storage: str | None = None,
) -> None:
    """Do the trials that `study` lacks: in this process, or in as many as the settings say. See `search`."""
    if session.settings.n_workers == 1:
        session.run(study, signal, on_event, folder)
        return
    ends = _Ends(study, on_event or _ignore)
    run_workers(
        worker_command(folder, trust_remote_code=session.settings.trust_remote_code),
        session.settings.n_workers,
        Path(folder) / "logs",
        environment=worker_environment(storage, os.environ),
        devices=session.settings.devices,
        on_poll=ends.look_again,
    )
    # Workers may have ended trials since the last look.
    ends.look()


class _Ends:
    """Tells of the trials that other processes have ended."""

    def __init__(self, study: Study, notify: Callable[[Event], None]) -> None:
        self._study, self._notify = study, notify
        # A search that goes on does not tell again what earlier calls have told.
        self._known = {_ended(trial) for trial in study.trials(with_history=False) if trial.finished is not None}
        self._last = time.monotonic()

    def look_again(self) -> None:
        """`look`, but not often."""
        if time.monotonic() > self._last + _LOOK_SECONDS:
            self.look()
            self._last = time.monotonic()

    def look(self) -> None:
        """Tell of what has ended since the last look."""
        for trial in self._study.trials(with_history=False):
            if trial.finished is not None and _ended(trial) not in self._known:
                self._known.add(_ended(trial))
                self._notify(Failed(trial) if trial.latest is None or trial.failure else Told(trial))


def _ended(trial: Trial) -> tuple[int, int | None, bool]:
    """What has ended: of a trial that goes on from rung to rung each part ends by itself."""
    return trial.number, trial.rung, trial.failure is not None


def _ignore(event: Event) -> None:
    """The listener of those who want no progress."""


def worker_command(folder: str | Path, *, trust_remote_code: bool = False) -> list[str]:
    """The command line of one worker of the study in `folder`.

    Everybody on a machine can read command lines, so that the database is no part of it: see `worker_environment`.
    The folder of the call is not on the path of a worker (``-P``), where a ``queue.py`` of the user's would take the
    place of Python's; a dotted path finds what is there all the same, see `autopeft.kinds`.

    Args:
        trust_remote_code: handed on from whoever gave the flag; the study's folder cannot say so.
    """
    trust = ["--trust-remote-code"] if trust_remote_code else []
    return [sys.executable, "-P", "-m", "autopeft", "worker", str(folder), *trust]


def worker_environment(storage: str | None, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what tells a worker its database; without such a variable where the study is a file of its own."""
    kept = {name: value for name, value in base.items() if name != STORAGE_VARIABLE}
    return kept if storage is None else {**kept, STORAGE_VARIABLE: storage}


def join(
    folder: str | Path, *, storage: str | None = None, device: str | None = None, trust_remote_code: bool = False
) -> Study:
    """Work on a study that another process has begun, until it has all its trials.

    Args:
        trust_remote_code: as the search that began it was told; its folder cannot say so.

    Raises:
        SettingsError: the folder holds no settings.
    """
    settings = settings_module.load(Path(folder) / "settings.yaml", trust_remote_code=trust_remote_code)
    settings = as_begun(settings, folder)  # those of an earlier version lack what came later
    # A storage that was mistyped would get a study of its own, on which this worker alone would work.
    Study.open(*place_of_study(Path(folder), storage)).close()
    # Which worker has which device was settled by whoever started it, so that none is looked for here.
    session = Session.build(settings.with_changes(device=device or settings.device, devices=()), is_begun=True)
    study = session.study(folder, storage)
    try:
        session.check_inputs(study)
        session.run(study, session.proxy(study, folder=folder), folder=folder)
    except BaseException:
        study.close()
        raise
    return study
