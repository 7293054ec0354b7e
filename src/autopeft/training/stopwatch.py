"""How long work takes, over all the processes that worked on it."""

from __future__ import annotations

import time


class Stopwatch:
    """Wall-clock time of a search or training over all processes that worked on it, up to the last checkpoint of each.

    It runs from its creation on.

    Attributes:
        earlier: seconds that were counted before it was last started: those of earlier processes among them.
    """

    def __init__(self) -> None:
        self.earlier = 0.0
        self._started: float | None = time.perf_counter()

    def start(self) -> None:
        """Count from now; what was counted since the last start is dropped unless the watch was stopped."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Count no more until the next start."""
        self.earlier, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """All of it until now."""
        return self.earlier + (0.0 if self._started is None else time.perf_counter() - self._started)
