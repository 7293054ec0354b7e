"""Who holds a running trial, and when its holder is given up for lost.

A worker that is killed cannot say so. It leaves a lease behind: where it ran, its process, and the time at which it
last showed life. Others read it.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from autopeft.errors import SettingsError
from autopeft.masking import mask_text

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseRules:
    """When a trial is given up, and how often it is tried again.

    Args:
        beat_seconds: time between two signs of life of a worker.
        stale_seconds: a worker that cannot be looked at directly (on another host, or in another container) is lost
            when its last sign of life is older than this. Clocks must agree to well within this time.
        max_retries: how often an architecture whose worker was lost is tried again; then it has failed for good.
        poll_seconds: time between two looks while other workers finish the last trials.
    """

    beat_seconds: float = 60.0
    stale_seconds: float = 300.0
    max_retries: int = 3
    poll_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.beat_seconds < self.stale_seconds or self.max_retries < 0 or self.poll_seconds <= 0:
            raise SettingsError(
                f"Leases need 0 < beat_seconds < stale_seconds, max_retries >= 0 and poll_seconds > 0, but got {self}."
            )


@dataclass(frozen=True)
class Lease:
    """The holder of a running trial.

    Args:
        host: name of the machine, for people.
        place: identifies the running system and its process table: process ids of equal places can be compared.
        pid: process id.
        started: when the process started, seconds since the epoch; tells a process from a later one of the same id.
        beat: the last sign of life, seconds since the epoch.
    """

    host: str
    place: str
    pid: int
    started: float
    beat: float

    @classmethod
    def mine(cls, now: float) -> Lease:
        """The lease of this process at the time `now`."""
        return cls(platform.node(), _place(), os.getpid(), psutil.Process().create_time(), now)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lease:
        """The lease written by `as_dict`."""
        return cls(**data)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return asdict(self)

    def renewed(self, now: float) -> Lease:
        """The same lease with a sign of life at `now`."""
        return replace(self, beat=now)

    def is_lost(self, now: float, stale_seconds: float) -> bool:
        """Whether the holder is gone: its process has ended, or it has been silent for too long.

        A process of this system that exists and is another than this one is never given up: it may have been
        suspended. This process itself counts as silent only where nothing renews the lease any more.
        """
        is_stale = now - self.beat > stale_seconds
        if self.place != _place():
            return is_stale
        try:
            process = psutil.Process(self.pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return True
            # The start time is derived from the wall clock, which may have been set meanwhile: a difference alone
            # is no proof that the process id was given to another process.
            is_same = abs(process.create_time() - self.started) < 2.0 and self.pid != os.getpid()
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return is_stale
        return is_stale and not is_same


class Heart:
    """Renews a lease from a daemon thread until it is stopped.

    Args:
        beat: called at every interval; it returns False when there is nothing left to renew.
        seconds: the interval.
    """

    def __init__(self, beat: Callable[[], bool], seconds: float) -> None:
        self._beat, self._seconds = beat, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autopeft-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing. Returns when the thread has ended."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if not self._beat():
                    return
            except Exception as error:  # A missed beat is made good by the next one; the training must go on.
                _logger.warning("A lease could not be renewed: %s", mask_text(str(error)))


def _place() -> str:
    """The boot of the kernel and the namespace of process ids; containers differ in the latter."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node()} {int(psutil.boot_time()) // 60}"
