"""Signals: which ones interrupt, which are held back, and what stays as it was."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from autopeft.interruption import SIGNALS, Interruption, reason_of, signals_interrupt, uninterrupted


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # handlers run between two steps of Python


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_interrupts_within_the_block_alone(number: signal.Signals, code: int) -> None:
    before = [signal.getsignal(item) for item in SIGNALS]
    with pytest.raises(Interruption) as caught, signals_interrupt():
        kill(number)
    assert caught.value.code == code
    assert reason_of(caught.value) == number.name
    assert [signal.getsignal(item) for item in SIGNALS] == before


def test_what_is_ignored_stays_ignored() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt(), uninterrupted():
            kill(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_held_until_the_block_has_ended(number: signal.Signals) -> None:
    done = []
    expected = KeyboardInterrupt if number == signal.SIGINT else Interruption

    def write() -> None:
        with uninterrupted():
            kill(number)
            kill(number)  # soon after the first: held as well
            done.append("inside")
        done.append("after")

    with pytest.raises(expected), signals_interrupt():
        write()
    assert done == ["inside"]


def test_a_late_second_signal_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopeft.interruption._PATIENCE_SECONDS", 0.0)
    done = []

    def write() -> None:
        for _ in range(2):
            kill(signal.SIGTERM)
            done.append("held")

    with pytest.raises(Interruption), signals_interrupt(), uninterrupted():
        write()
    assert done == ["held"]


def test_a_signal_is_not_lost_when_the_block_fails() -> None:
    def write() -> None:
        kill(signal.SIGTERM)
        raise ValueError("broken")

    with pytest.raises(Interruption) as caught, signals_interrupt(), uninterrupted():
        write()
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_leave_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with signals_interrupt(), uninterrupted():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
