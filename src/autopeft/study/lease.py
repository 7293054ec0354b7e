"""Who holds a running trial, and when its holder is given up for lost.

A worker that is killed cannot say so. It leaves a lease behind: where it ran, its process, and the time at which it
last showed life. Others read it.
"""

from __future__ import annotations

import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from autopeft.errors import SettingsError

_logger = logging.getLogger(__name__)


Clock = Literal["database", "host"]
"""Whose clock a time is by."""


@dataclass(frozen=True)
class LeaseRules:
    """When a trial is given up, and how often it is tried again.

    Args:
        beat_seconds: time between two signs of life of a worker.
        stale_seconds: a worker that cannot be looked at directly (on another host, or in another container) is lost
            when its last sign of life is older than this, by the database's clock or by what others have observed.
        max_retries: how often an architecture whose worker was lost is tried again; then it has failed for good.
        poll_seconds: time between two looks while other workers finish the last trials.
        patience_seconds: how long a database that has gone away is waited for, with growing pauses.
    """

    beat_seconds: float = 60.0
    stale_seconds: float = 300.0
    max_retries: int = 3
    poll_seconds: float = 2.0
    patience_seconds: float = 600.0

    def __post_init__(self) -> None:
        is_order_wrong = not 0 < self.beat_seconds < self.stale_seconds
        if is_order_wrong or self.max_retries < 0 or self.poll_seconds <= 0 or self.patience_seconds < 0:
            raise SettingsError(
                "Leases need 0 < beat_seconds < stale_seconds, max_retries >= 0, poll_seconds > 0 and "
                f"patience_seconds >= 0, but got {self}."
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
        clock: whose clock `beat` is by: that of the database's server, which all workers share, or of the host.
        token: of this claim and no other; empty in studies of earlier versions.
    """

    host: str
    place: str
    pid: int
    started: float
    beat: float
    clock: Clock = "host"
    token: str = ""

    @classmethod
    def mine(cls, now: float, clock: Clock = "host") -> Lease:
        """A new lease of this process at the time `now` of `clock`."""
        started = psutil.Process().create_time()
        return cls(platform.node(), _place(), os.getpid(), started, now, clock, uuid.uuid4().hex)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lease:
        """The lease written by `as_dict`."""
        return cls(**data)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return asdict(self)

    @property
    def is_mine(self) -> bool:
        """Whether this process holds it, or held it."""
        return (self.place, self.pid) == (_place(), os.getpid())

    def renewed(self, now: float) -> Lease:
        """The same lease with a sign of life at `now`."""
        return replace(self, beat=now)

    def is_lost(self, is_silent: Callable[[], bool]) -> bool:
        """Whether the holder is gone: its process has ended, or it has been silent for too long.

        A process of this system that exists and is another than this one is never given up: it may have been
        suspended. This process itself counts as silent only where nothing renews the lease any more.

        Args:
            is_silent: whether it has been silent for too long, as a `Watch` sees it; asked where that decides.
        """
        # Process ids of another system say nothing here, so only its silence can.
        if self.place != _place():
            return is_silent()
        try:
            process = psutil.Process(self.pid)
            # A process that has ended stays in the table until its parent asks for it, which a batch system may never
            # do.
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return True
            # The start time is derived from the wall clock, which may have been set meanwhile: a difference alone
            # is no proof that the process id was given to another process.
            is_same = abs(process.create_time() - self.started) < 2.0 and self.pid != os.getpid()
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return is_silent()
        return not is_same and is_silent()


class Watch:
    """Tells silence from a clock that is wrong, for the leases that one process looks at.

    Where both signs of life and the present are by the database's clock, their difference is the silence. Where
    clocks are those of hosts, a difference may be a clock's fault: a lease that is still renewed is never silent, and
    one that has not been for `stale_seconds` of this process's own observation is, whatever the clocks say. An old
    sign of life shortens that to two beats, so that what a machine left behind is taken up soon.

    Args:
        monotonic: a clock that nobody sets; replaced in tests.
    """

    def __init__(self, rules: LeaseRules, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._monotonic = rules, monotonic
        self._seen: dict[str, tuple[float, float]] = {}
        self._warned: set[str] = set()
        # As if it had been watched for ever, until something happens that makes earlier observations void.
        self._since = -float("inf")

    def begin_anew(self) -> None:
        """Forget what was observed: nobody could show life while the database was away."""
        self._seen.clear()
        self._since = self._monotonic()

    def is_silent(self, lease: Lease, now: float, clock: Clock) -> bool:
        """Whether a lease has not been renewed for too long.

        Args:
            now: the present by `clock`, seconds since the epoch.
        """
        observed = self._observed(lease, now, clock)
        is_old = now - lease.beat > self._rules.stale_seconds
        two_beats = 2 * self._rules.beat_seconds
        # One clock on both sides: the difference is the silence, and nobody's clock can be wrong about it.
        if lease.clock == clock == "database":
            return is_old and self._monotonic() - self._since > two_beats
        return observed > self._rules.stale_seconds or (is_old and observed > two_beats)

    def _observed(self, lease: Lease, now: float, clock: Clock) -> float:
        """Seconds for which the lease has stood as it stands."""
        key = f"{lease.place} {lease.pid} {lease.token}"
        before, since = self._seen.get(key, (None, 0.0))
        if before == lease.beat:
            return self._monotonic() - since
        # Any change of the beat is a sign of life, even one that goes back because a clock was set.
        self._seen[key] = lease.beat, self._monotonic()
        # A first look proves nothing about a clock: the lease may simply be old.
        if before is not None and not lease.clock == clock == "database":
            self._warn_of_skew(lease, now - lease.beat)
        return 0.0

    def _warn_of_skew(self, lease: Lease, behind: float) -> None:
        """A lease has just been renewed; its sign of life should be about as old as the present."""
        beat = self._rules.beat_seconds
        if -beat < behind < self._rules.stale_seconds or lease.host in self._warned:
            return
        self._warned.add(lease.host)
        side = "behind" if behind > 0 else "ahead of"
        _logger.warning(
            "The clock of %s is about %.0f seconds %s the one here. Its trials are not given up for that, but the "
            "times in reports are off: set the clocks.",
            lease.host,
            abs(behind),
            side,
        )


def _place() -> str:
    """The boot of the kernel and the namespace of process ids; containers differ in the latter."""
    try:
        # Containers of one host share its name, not its process table, and a reboot hands out the same ids again.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        # In minutes, since systems without this file compute the boot from the clock, which is corrected by fractions.
        return f"{platform.node()} {int(psutil.boot_time()) // 60}"
