"""Signals that ask a process to end: SIGTERM and the like interrupt as SIGINT does; what must be whole is finished."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What asks a process to end and leaves it the time to tidy up; the last three are the warnings of batch queues."""

_PATIENCE_SECONDS = 5.0


class Interruption(SystemExit):
    """SIGTERM or its like asked this process to end. Uncaught, it ends with the customary code, 128 and the number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def reason_of(error: BaseException) -> str:
    """Why a process ends, in a word: the signal's name, or that of the exception."""
    return signal.Signals(error.number).name if isinstance(error, Interruption) else type(error).__name__


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM and the like raise `Interruption` in the main thread, as SIGINT `KeyboardInterrupt`.

    A signal that is ignored stays so: `nohup` asks for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as stack:
        # Python raises `KeyboardInterrupt` for the first by itself.
        for number in SIGNALS[1:]:
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, _interrupt))
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back until the block has ended: for writing what would be half done otherwise.

    One that comes later than some seconds after the first is not held: whoever asks again does not want to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = _Held()
    try:
        with ExitStack() as stack:
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # None: not installed from Python
                    stack.callback(signal.signal, number, before)
                    signal.signal(number, held)
            yield
    finally:  # a block that failed was asked to end, too
        if held.number is not None:
            # By now the handlers of before are back, so that the signal does what it would have done at once.
            signal.raise_signal(held.number)


class _Held:
    """A handler that remembers the first signal, and gives way to a late one."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self._since = number, time.monotonic()
        # Not at once: a terminal and a launcher may both pass on the one signal that a person gave.
        elif time.monotonic() > self._since + _PATIENCE_SECONDS:
            _interrupt(number, frame)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interruption(number)
