"""The weights of a supernet while it is searched: their optimiser, their gradients, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autopeft.searches._supernet import Supernet
from autopeft.searches.bipeft.settings import BipeftSettings

Floats = NDArray[np.float64]

_TRAIN, _VALIDATION = "train", "validation"


class Weights:
    """The parameters of all placements that are left, and of the head, under one AdamW (β 0.9 and 0.999).

    A parameter without a gradient in a step is left alone by the optimiser, decay included. Gradients are handled
    as one flat vector, so a step costs a few large operations and not a few for every tensor.
    """

    def __init__(self, supernet: Supernet, head: Sequence[nn.Parameter], settings: BipeftSettings) -> None:
        self._n, self._settings, self._head = len(supernet), settings, list(head)
        self._owned = {index: supernet.parameters_of(index) for index in range(len(supernet))}
        self._device = supernet.device
        self._layout()
        self._optimiser = torch.optim.AdamW(
            [*self._tensors, *self._head], weight_decay=settings.weight_decay, foreach=True
        )
        self._kept: dict[str, Tensor] = {}  # what the cosine is taken of, flat, by half
        self._last: Tensor | None = None  # the last training gradient, where the release adds it

    def _layout(self) -> None:
        """Which tensor lies where in a flat vector, and whose it is."""
        self._tensors = [parameter for parameters in self._owned.values() for parameter in parameters]
        self._lengths = torch.tensor([p.numel() for p in self._tensors], dtype=torch.int64, device=self._device)
        # One owner a tensor and not a parameter, as sums are taken tensor by tensor first.
        self._owners = np.repeat(
            np.fromiter(self._owned, dtype=np.int64), [len(parameters) for parameters in self._owned.values()]
        )

    # -- passes ------------------------------------------------------------------------------------------------

    def train(self, loss: Tensor, rate: float) -> Floats:
        """Update weights and head at the learning rate `rate`; importance of every placement, ``(n,)``."""
        every = [*self._tensors, *self._head]
        # When every placement happens to be off and there is no head, the loss depends on nothing.
        found = torch.autograd.grad(loss, every, allow_unused=True) if loss.requires_grad else [None] * len(every)
        for parameter, gradient in zip(every, found, strict=True):
            parameter.grad = gradient
        importance = np.zeros(self._n)
        # Measured before the clipping, which would weigh all placements down in a step in which one had a large
        # gradient.
        if self._settings.is_selecting and self._settings.is_clean:
            importance = self._measure(_TRAIN, self._joined([p.grad for p in self._tensors]))
        if self._settings.clip and loss.requires_grad:
            nn.utils.clip_grad_norm_(every, self._settings.clip)
        if self._settings.is_selecting and not self._settings.is_clean:
            self._last = self._joined([p.grad for p in self._tensors])
            importance = self._measure(_TRAIN, self._last)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        for _ in range(self._settings.optimiser_steps):
            self._optimiser.step()
        # None and not zero: the next step must tell a placement that was off from one without a slope.
        self._optimiser.zero_grad(set_to_none=True)
        return importance

    def validate(self, loss: Tensor, gates: Sequence[Tensor], is_scored: bool) -> tuple[list[Tensor], Floats]:
        """The gradients of `gates`, and the importance of every placement, ``(n,)`` (zeros unless `is_scored`)."""
        mine = self._tensors if is_scored else []
        found = torch.autograd.grad(loss, [*gates, *mine], allow_unused=True)
        outer = [torch.zeros_like(g) if d is None else d for g, d in zip(gates, found, strict=False)]
        if not is_scored:
            return outer, np.zeros(self._n)
        flat = self._joined(found[len(gates) :])
        if self._last is not None:
            # The release does not clear gradients between its two passes, and scores the sum of both.
            flat = flat + self._last
        return outer, self._measure(_VALIDATION, flat)

    def _joined(self, gradients: Sequence[Tensor | None]) -> Tensor:
        parts = [
            torch.zeros_like(parameter).view(-1) if gradient is None else gradient.reshape(-1)
            for parameter, gradient in zip(self._tensors, gradients, strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, device=self._device)

    # -- worth -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _measure(self, half: str, gradient: Tensor) -> Floats:
        """``Σ |w · g|`` of every placement (Molchanov et al. 2019, arXiv 1906.10771, first order)."""
        product = gradient * self._joined(self._tensors)
        self._kept[half] = gradient if self._settings.cosine_of == "gradients" else product
        return self._by_placement(self._by_tensor(product.abs()))

    @torch.no_grad()
    def similarity(self) -> Floats:
        """The cosine between the halves for every placement, ``(n,)``; 0 where either is a zero vector."""
        a, b = self._kept[_TRAIN], self._kept[_VALIDATION]
        inner, first, second = (self._by_tensor(part) for part in (a * b, a * a, b * b))
        if self._settings.cosine_of == "products":  # the mean over a placement's tensors
            one = self._by_placement(np.ones_like(inner))
            return self._by_placement(_cosine(inner, first, second)) / np.maximum(one, 1)
        return _cosine(*(self._by_placement(part) for part in (inner, first, second)))

    def _by_tensor(self, flat: Tensor) -> Floats:
        sums = torch.segment_reduce(flat, "sum", lengths=self._lengths)
        return sums.double().cpu().numpy()

    def _by_placement(self, sums: Floats) -> Floats:
        return np.bincount(self._owners, weights=sums, minlength=self._n).astype(np.float64)

    # -- removal and state -------------------------------------------------------------------------------------

    def remove(self, indices: Iterable[int]) -> None:
        """Stop training placements and free their optimiser state."""
        gone = set(indices)
        if not gone:
            return
        if self._last is not None:
            parts = zip(self._owners, torch.split(self._last, self._lengths.tolist()), strict=True)
            left = [part for owner, part in parts if owner not in gone]
            self._last = torch.cat(left) if left else None
        # By identity, because tensors compare element by element.
        dropped = {id(p): p for index in gone for p in self._owned.pop(index)}
        for group in self._optimiser.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in dropped]
        for parameter in dropped.values():
            self._optimiser.state.pop(parameter, None)
        self._layout()

    def state(self) -> dict[str, Tensor]:
        """Values and moments of everything that is trained."""
        found = {} if self._last is None else {"weights/last": self._last}
        for name, parameter in self._named():
            found[f"weights/value/{name}"] = parameter
            for key, value in self._optimiser.state.get(parameter, {}).items():
                found[f"weights/{key}/{name}"] = value
        return found

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, after the same placements have been removed."""
        if "weights/last" in state:
            self._last = state["weights/last"].to(self._device)
        for name, parameter in self._named():
            parameter.copy_(state[f"weights/value/{name}"])
            if f"weights/step/{name}" in state:
                moments = {key: state[f"weights/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                self._optimiser.state[parameter] = restored(moments, parameter)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        own = [(f"{index}.{k}", p) for index, parameters in self._owned.items() for k, p in enumerate(parameters)]
        return own + [(f"head.{k}", p) for k, p in enumerate(self._head)]


def restored(moments: Mapping[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """Stored moments of Adam as its optimiser keeps them: the step on the processor, the others with `parameter`."""
    # Copies, as an optimiser writes into its moments, and those that were read may be read again.
    return {k: v.clone() if k == "step" else v.to(parameter.device, copy=True) for k, v in moments.items()}


def _cosine(inner: Floats, first: Floats, second: Floats) -> Floats:
    length = np.sqrt(first * second)
    return np.divide(inner, length, out=np.zeros_like(inner), where=length > 0)
