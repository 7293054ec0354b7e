"""Leases: whose worker is lost and whose is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from autopeft.errors import SettingsError
from autopeft.study.lease import Heart, Lease, LeaseRules

NOW = 1_000_000.0
MINE = Lease.mine(NOW)


def of(process: subprocess.Popen[bytes]) -> Lease:
    return replace(MINE, pid=process.pid, started=psutil.Process(process.pid).create_time())


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_lease_survives_json_and_is_renewed() -> None:
    assert MINE.pid == os.getpid()
    assert Lease.from_dict(MINE.as_dict()) == MINE
    assert MINE.renewed(NOW + 5) == replace(MINE, beat=NOW + 5)


@pytest.mark.parametrize(("age", "is_lost"), [(0, False), (300, False), (300.1, True), (-50, False)])
def test_elsewhere_silence_decides(age: float, is_lost: bool) -> None:
    far = replace(MINE, place="another boot", pid=1)
    assert far.is_lost(NOW + age, 300) is is_lost


def test_a_live_process_of_this_system_is_never_lost(sleeper: subprocess.Popen[bytes]) -> None:
    lease = of(sleeper)
    assert not lease.is_lost(NOW + 1e6, 300)
    sleeper.send_signal(signal.SIGSTOP)
    assert not lease.is_lost(NOW + 1e6, 300)
    sleeper.kill()
    sleeper.wait()


def test_a_killed_process_is_lost_at_once_even_before_its_parent_notices(sleeper: subprocess.Popen[bytes]) -> None:
    lease = of(sleeper)
    sleeper.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.is_lost(NOW, 300)
    sleeper.wait()
    assert lease.is_lost(NOW, 300)


def test_another_process_of_the_same_id_is_told_apart_by_silence(sleeper: subprocess.Popen[bytes]) -> None:
    lease = replace(of(sleeper), started=5.0)
    assert not lease.is_lost(NOW + 299, 300)  # the clock may have been set
    assert lease.is_lost(NOW + 301, 300)
    sleeper.kill()
    sleeper.wait()


def test_this_process_is_lost_where_nothing_renews_its_lease() -> None:
    assert not MINE.is_lost(NOW + 299, 300)
    assert MINE.is_lost(NOW + 301, 300)


@pytest.mark.parametrize(
    "rules", [{"beat_seconds": 0}, {"beat_seconds": 300}, {"max_retries": -1}, {"poll_seconds": 0}]
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="0 < beat_seconds < stale_seconds"):
        LeaseRules(**rules)  # type: ignore[arg-type]


def test_a_heart_beats_through_errors_until_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    beats: list[int] = []
    third = threading.Event()

    def beat() -> bool:
        beats.append(len(beats))
        if len(beats) == 1:
            raise OSError("the database is busy")
        if len(beats) == 3:
            third.set()
        return True

    heart = Heart(beat, 0.01)
    assert third.wait(10)
    heart.stop()
    count = len(beats)
    time.sleep(0.05)
    assert len(beats) == count
    assert "the database is busy" in caplog.text


def test_a_heart_ends_when_there_is_nothing_left_to_renew() -> None:
    beats: list[int] = []
    heart = Heart(lambda: bool(beats.append(1)), 0.01)
    heart._thread.join(10)
    assert beats == [1]
    heart.stop()
