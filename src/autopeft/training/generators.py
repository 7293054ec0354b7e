"""PyTorch's global generators as one training run sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

_CPU, _CUDA = "generator/cpu", "generator/cuda"


class Generators:
    """The states of the global generators that belong to one run: in place while it trains, others' own in between.

    Dropout and random experts draw from the global generators; no argument could give them another one.

    Args:
        device: on which the run trains.
        seed: of the run.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=self._cuda):
            torch.manual_seed(seed)
            self._kept = self._current()
        self._is_installed = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block the global generators are the run's; after it they are what they were."""
        with torch.random.fork_rng(devices=self._cuda):
            torch.random.set_rng_state(self._kept[_CPU])
            for device in self._cuda:
                torch.cuda.set_rng_state(self._kept[_CUDA], device)
            self._is_installed = True
            try:
                yield
            finally:
                # Taken before the fork puts the others' states back: what was drawn until now is where the next block
                # goes on.
                self._kept, self._is_installed = self._current(), False

    def states(self) -> dict[str, Tensor]:
        """The run's states, by name: bytes, ``(n,)``."""
        return self._current() if self._is_installed else dict(self._kept)

    def restore(self, states: Mapping[str, Tensor]) -> None:
        """Go to what `states` gave; not while they are installed.

        Raises:
            KeyError: a state is missing, as when a run on another kind of device gave them.
            ValueError: a state is of another length.
        """
        # Checked whole before anything is taken over, since half a state would be neither run's.
        found = {name: states[name] for name in self._kept}
        wrong = [name for name, state in found.items() if state.shape != self._kept[name].shape]
        if wrong:
            raise ValueError(f"the states of {', '.join(wrong)} have another length")
        self._kept = found

    def _current(self) -> dict[str, Tensor]:
        found = {_CPU: torch.random.get_rng_state()}
        for device in self._cuda:
            found[_CUDA] = torch.cuda.get_rng_state(device)
        return found
