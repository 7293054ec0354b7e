"""The sign of life of a worker: its lease is renewed from a thread of its own while it trains."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from autopeft.masking import mask_text
from autopeft.study.blips import pauses

_logger = logging.getLogger(__name__)


class Heart:
    """Renews a lease from a daemon thread until it is stopped.

    Args:
        beat: called at every interval; it returns False when there is nothing left to renew.
        seconds: the interval.
    """

    def __init__(self, beat: Callable[[], bool], seconds: float) -> None:
        self._beat, self._seconds = beat, seconds
        self._stop = threading.Event()
        # A daemon: a process that ends must not wait for its own heart, nor must a crashed one look alive.
        self._thread = threading.Thread(target=self._run, name="autopeft-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing. Returns when the thread has ended."""
        self._stop.set()
        # The beat itself may end the heart, and a thread that waits for itself waits for ever.
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        waits = pauses()
        seconds = self._seconds
        while not self._stop.wait(seconds):
            try:
                if not self._beat():
                    return
                seconds, waits = self._seconds, pauses()
            except Exception as error:  # A missed beat is made good soon; the training must go on.
                _logger.warning("A lease could not be renewed: %s", mask_text(str(error)))
                seconds = min(next(waits), self._seconds)
