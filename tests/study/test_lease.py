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
from autopeft.study.heart import Heart
from autopeft.study.lease import Lease, LeaseRules, Watch

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)

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


class Moments:
    """A clock that nobody sets, as far as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def passed() -> Moments:
    return Moments()


@pytest.fixture
def watch(passed: Moments) -> Watch:
    return Watch(LeaseRules(), passed)


FAR = replace(MINE, place="another boot", pid=1, host="far", token="a")


@pytest.mark.parametrize("is_silent", [True, False])
def test_elsewhere_silence_decides(is_silent: bool) -> None:
    assert FAR.is_lost(lambda: is_silent) is is_silent


@pytest.mark.parametrize(("age", "is_silent"), [(0, False), (300, False), (300.1, True), (-3600, False)])
def test_by_the_database_s_clock_a_lease_is_as_silent_as_it_is_old(watch: Watch, age: float, is_silent: bool) -> None:
    lease = replace(FAR, clock="database")
    assert watch.is_silent(lease, NOW + age, "database") is is_silent


def test_nobody_is_silent_just_after_the_database_came_back(watch: Watch, passed: Moments) -> None:
    lease = replace(FAR, clock="database")
    watch.begin_anew()
    assert not watch.is_silent(lease, NOW + 400, "database")
    passed.now = 121
    assert watch.is_silent(lease, NOW + 521, "database")


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_what_is_renewed_is_never_silent_whatever_the_clocks_say(
    watch: Watch, passed: Moments, caplog: pytest.LogCaptureFixture, skew: float
) -> None:
    for _ in range(60):
        now = NOW + passed.now
        lease = FAR.renewed(now + skew)
        assert not watch.is_silent(lease, now, "host")
        passed.now += 59  # just before the next beat
        assert not watch.is_silent(lease, now + 59, "host")
        passed.now += 1
    said = [record.message for record in caplog.records]
    side = "behind" if skew < 0 else "ahead of"
    assert [f"The clock of far is about 3600 seconds {side} the one here" in line for line in said] == [True] * bool(
        skew
    )


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_what_is_renewed_no_more_is_silent_after_a_while_whatever_the_clocks_say(
    watch: Watch, passed: Moments, skew: float
) -> None:
    lease = FAR.renewed(NOW + skew)
    assert not watch.is_silent(lease, NOW, "host")
    passed.now = 301
    assert watch.is_silent(lease, NOW + 301, "host")


def test_an_old_sign_of_life_needs_two_beats_of_observation(watch: Watch, passed: Moments) -> None:
    assert not watch.is_silent(FAR, NOW + 86_400, "host")
    passed.now = 121
    assert watch.is_silent(FAR, NOW + 86_521, "host")


def test_a_live_process_of_this_system_is_never_lost(sleeper: subprocess.Popen[bytes]) -> None:
    lease = of(sleeper)
    assert not lease.is_lost(lambda: True)
    sleeper.send_signal(signal.SIGSTOP)
    assert not lease.is_lost(lambda: True)
    sleeper.kill()
    sleeper.wait()


def test_a_killed_process_is_lost_at_once_even_before_its_parent_notices(sleeper: subprocess.Popen[bytes]) -> None:
    lease = of(sleeper)
    sleeper.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.is_lost(lambda: False)
    sleeper.wait()
    assert lease.is_lost(lambda: False)


def test_another_process_of_the_same_id_is_told_apart_by_silence(sleeper: subprocess.Popen[bytes]) -> None:
    lease = replace(of(sleeper), started=5.0)
    assert not lease.is_lost(lambda: False)  # the clock may have been set
    assert lease.is_lost(lambda: True)
    sleeper.kill()
    sleeper.wait()


def test_this_process_is_lost_where_nothing_renews_its_lease() -> None:
    assert not MINE.is_lost(lambda: False)
    assert MINE.is_lost(lambda: True)


@pytest.mark.parametrize(
    "rules",
    [
        {"beat_seconds": 0},
        {"beat_seconds": 300},
        {"max_retries": -1},
        {"poll_seconds": 0},
        {"patience_seconds": -1},
    ],
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
