"""A supernet: every placement of a space at its largest size, attached once, with a gate on each.

BIPEFT (EMNLP Findings 2024, section 3.2) searches in it. A size of ``d`` is the first ``d`` units of the largest
module (weight entanglement, Chen et al. 2021, arXiv 2107.00651), so all sizes share one set of weights and the
memory is that of the largest single architecture. The gates are one vector over the placements and one matrix over
their sizes; a placement's mask over its units is ``keep_n · Σ_k size_nk · [i < d_k]``, so what it adds is linear in
``keep_n``; where a module uses its mask more than once, ``keep_n`` stands apart to keep it so.

Gates that need no gradient are whole numbers of units: then a placement that is off is not computed, and one that
is on computes only its units, bit for bit what the architecture that `Supernet.architecture` names would compute
with the weights that `Supernet.weights` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from autopeft.architecture import Architecture, CountKind, Placement
from autopeft.backbones import Backbone
from autopeft.errors import SettingsError
from autopeft.methods import Cuttable, StartsUneven, lookup
from autopeft.network.attach import attach
from autopeft.searches._candidates import Candidates
from autopeft.spaces.lattice import SearchSpace

Sampling = Literal["gumbel", "mixture"]
Starts = Literal["method", "even"]
"""Where modules are trained from: as their methods have it, or from where a step changes about as much in all."""


class Supernet:
    """Every placement of a space at its largest size.

    Attributes:
        candidates: the placements, their sizes and costs, in canonical order; what every index here refers to.
        alive: which placements have not been removed, ``(n,)``.
    """

    def __init__(
        self,
        backbone: Backbone,
        space: SearchSpace,
        *,
        seed: int = 0,
        kind: CountKind = "stored",
        starts: Starts = "method",
    ) -> None:
        """Attach all placements, freshly initialised from `seed`.

        Args:
            kind: the count in which costs are given.
            starts: leave every module at the start of its "method", or make them "even", see `StartsUneven`.

        Raises:
            SettingsError: a size is shared by several placements, a placement cannot be absent, a method trains the
                backbone itself, or its modules share parameters or cannot be cut.
        """
        self.candidates = Candidates.of(space, kind)
        sizes = self.candidates.sizes.max(axis=1)
        self._placements = [
            Placement(site, method, int(size)) for (site, method), size in zip(self.candidates.keys, sizes, strict=True)
        ]
        self._attached = attach(backbone, Architecture(tuple(self._placements)), seed=seed)
        self.alive: NDArray[np.bool_] = np.ones(len(sizes), dtype=bool)
        try:
            self._check()
            if starts == "even":
                self._even_starts()
            device = backbone.device
            units = torch.arange(int(sizes.max()))
            table = units < torch.from_numpy(self.candidates.sizes)[:, :, None]  # (n, K, units): is the unit part of it
            self._table = table.to(device=device, dtype=torch.float32)
            self._costs = torch.from_numpy(self.candidates.counts).to(device=device, dtype=torch.float32)
        except BaseException:
            self.detach()
            raise

    def _check(self) -> None:
        wrong = []
        owners: dict[int, str] = {}
        for index, placement in enumerate(self._placements):
            if lookup(placement.method).seam == "backbone":
                wrong.append(f"{placement.method} adds no module that a gate could stand on")
                continue
            module = self._attached.modules[placement.site, placement.method]
            if not isinstance(module, Cuttable):
                wrong.append(f"{placement.method} has no method `cut(size)`")
            for parameter in self.parameters_of(index):
                # The importance of a shared parameter belongs to nobody alone, and removing one owner would take it
                # from all.
                if owners.setdefault(id(parameter), str(placement)) != str(placement):
                    wrong.append(f"{placement.method} shares parameters between sites (prefix: use prefix_direct)")
        if wrong:
            raise SettingsError(f"A supernet cannot hold these methods: {'; '.join(sorted(set(wrong)))}.")

    def _even_starts(self) -> None:
        for module in self._attached.modules.values():
            if isinstance(module, StartsUneven):
                module.even_start()

    def __len__(self) -> int:
        return len(self._placements)

    def detach(self) -> None:
        """Take everything away from the backbone. Idempotent."""
        self._attached.detach()

    def __enter__(self) -> Supernet:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # -- parameters ----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._attached.backbone.device

    def parameters_of(self, index: int) -> list[nn.Parameter]:
        """The parameters of one placement, in a fixed order."""
        return list(self.module_of(index).parameters())

    def module_of(self, index: int) -> nn.Module:
        """The module of one placement, which has not been removed."""
        placement = self._placements[index]
        return self._attached.modules[placement.site, placement.method]

    def train(self, mode: bool = True) -> None:
        """Switch the added modules to training or evaluation mode."""
        self._attached.train(mode)

    def remove(self, indices: Iterable[int]) -> None:
        """Take placements out for good; their hooks go, so every later pass is cheaper."""
        for index in indices:
            self._attached.remove(self._placements[index])
            self.alive[index] = False

    # -- gates ---------------------------------------------------------------------------------------------

    def gate(self, keep: Tensor, sizes: Tensor) -> None:
        """Multiply the units of every placement by its mask; gradients flow to the gates.

        Args:
            keep: ``(n,)``, 0 to 1.
            sizes: ``(n, K)``, the weights of the candidate sizes, 0 to 1.
        """
        # One product for all placements: a loop over hundreds of small ones would take longer than the model.
        units = torch.einsum("nk,nku->nu", sizes, self._table)
        masks, gates = units * keep[:, None], keep.unbind(0)
        for index, (placement, mask) in enumerate(zip(self._placements, masks.unbind(0), strict=True)):
            if self.alive[index]:
                key = (placement.site, placement.method)
                is_apart = lookup(placement.method).is_scaled_apart
                self._attached.masks[key] = (units[index] if is_apart else mask)[: placement.size]
                if is_apart:
                    self._attached.scales[key] = gates[index]

    def take(self, sizes: Sequence[int]) -> None:
        """Use the first ``sizes[n]`` units of every placement; 0 leaves it out of the computation."""
        for index, (placement, size) in enumerate(zip(self._placements, sizes, strict=True)):
            if self.alive[index]:
                self._attached.masks[placement.site, placement.method] = int(size)
                # What an earlier pass with soft gates has left would still multiply.
                self._attached.scales.pop((placement.site, placement.method), None)

    def expected_cost(self, keep: Tensor, sizes: Tensor) -> Tensor:
        """``Σ_n keep_n Σ_k sizes_nk c_nk`` over all placements, removed ones too: a differentiable scalar."""
        return (keep * (sizes * self._costs).sum(1)).sum()

    # -- results -------------------------------------------------------------------------------------------

    def architecture(self, sizes: Sequence[int] | NDArray[np.int64]) -> Architecture:
        """The architecture of these sizes, 0 being absence; placements may be in it that were removed."""
        chosen = zip(self._placements, sizes, strict=True)
        return Architecture(tuple(Placement(p.site, p.method, int(n)) for p, n in chosen if n))

    @torch.no_grad()
    def weights(self, architecture: Architecture) -> dict[str, Tensor]:
        """The supernet's weights for `architecture`, in the form that `Attached.load_state` takes.

        Raises:
            KeyError: it has a placement that is not here, or was removed.
        """
        found = {}
        for placement in architecture:
            module = self._attached.modules[placement.site, placement.method]
            assert isinstance(module, Cuttable)
            for name, value in module.cut(placement.size).items():
                found[f"{placement.site}/{placement.method}/{name}"] = value.detach().clone()
        return found


# -- the architecture parameters ---------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What is decided already.

    Args:
        alive: ``(n,)``, False where removed.
        fixed: ``(n,)``, the index of the fixed size, -1 where it is still open.
    """

    alive: NDArray[np.bool_]
    fixed: NDArray[np.int64]


class Gates:
    """Logits of the gates: ``keep`` ``(n, 2)``, index 1 is "keep", and ``size`` ``(n_sized, K)``.

    Only placements with more than one candidate size have a row in ``size``. With `is_entangled` those have no
    ``keep`` of their own: their first size is 0, absence, and ``size`` is ``(n_sized, 1 + K)``.

    The logits start at 1e-3 times standard normal numbers.
    """

    def __init__(
        self, candidates: Candidates, *, seed: int, device: torch.device | str = "cpu", is_entangled: bool = False
    ) -> None:
        self.is_entangled = is_entangled
        generator = torch.Generator().manual_seed(seed)
        n_sizes = candidates.sizes.shape[1] + is_entangled
        rows = np.flatnonzero(candidates.is_sized)
        self.keep = _parameter((len(candidates), 2), generator, device)
        self.size = _parameter((len(rows), n_sizes), generator, device)
        self._rows = torch.from_numpy(rows).to(device)
        valid = torch.from_numpy(candidates.sizes[rows] > 0)
        if is_entangled:
            valid = functional.pad(valid, (1, 0), value=True)
        # Placements may have different numbers of candidates; those that do not exist are never drawn.
        self._absent = torch.zeros(valid.shape).masked_fill(~valid, float("-inf")).to(device)
        self._only = torch.zeros(candidates.sizes.shape).to(device)
        self._only[:, 0] = 1.0

    def logits(self) -> Tensor:
        """``size`` with minus infinity at sizes that do not exist."""
        return self.size + self._absent

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """The probability of "keep", ``(n,)``, and of each size, ``(n, K)``, as they stand, nothing being decided."""
        return self._spread(functional.softmax(self.keep, -1)[:, 1], functional.softmax(self.logits(), -1))

    def draw_keep(self, temperature: float, generator: torch.Generator, sampling: Sampling) -> Tensor:
        """One draw of every "keep", ``(n,)``: hard with straight-through gradients, or the softmax itself."""
        return _draw(self.keep, temperature, generator, sampling)[:, 1]

    def draw_sizes(self, temperature: float, generator: torch.Generator, sampling: Sampling) -> Tensor:
        """One draw of every size, in the shape of `size`."""
        return _draw(self.logits(), temperature, generator, sampling)

    def largest_sizes(self) -> Tensor:
        """The largest sizes, one-hot in the shape of `size`."""
        last = torch.isfinite(self._absent).sum(-1) - 1
        return functional.one_hot(last, self.size.shape[1]).to(self.size.dtype)

    def best_sizes(self) -> Tensor:
        """The likeliest sizes, one-hot in the shape of `size`."""
        return functional.one_hot(self.logits().argmax(-1), self.size.shape[1]).to(self.size.dtype)

    def combine(self, keep: Tensor, sizes: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """What `Supernet.gate` takes, made of a draw of both and what is decided already."""
        kept, spread = self._spread(keep, sizes)
        alive = torch.from_numpy(state.alive).to(kept.device)
        fixed = torch.from_numpy(state.fixed).to(kept.device)
        chosen = functional.one_hot(fixed.clamp_min(0), spread.shape[1]).to(spread.dtype)
        return kept * alive, torch.where((fixed >= 0)[:, None], chosen, spread)

    def _spread(self, keep: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """From the rows of sized placements to all; where entangled, the mass at 0 is simply dropped."""
        if self.is_entangled:
            sized = torch.zeros_like(keep).index_fill(0, self._rows, 1.0)
            keep, sizes = keep * (1 - sized) + sized, sizes[:, 1:]
        return keep, self._only.index_copy(0, self._rows, sizes)


def temperature(epoch: int, epochs: int) -> float:
    """``5 - 4 e / E`` with the 0-based epoch: from 5 to ``1 + 4 / E`` (BIPEFT's release; its paper gives none)."""
    return 5.0 - 4.0 * epoch / epochs


def hard_sizes(candidates: Candidates, keep: Tensor, sizes: Tensor) -> list[int]:
    """The whole sizes that hard gates stand for, 0 where off."""
    weights = (sizes * keep[:, None]).detach().cpu().numpy()
    # Rounded, since a straight-through draw is whole but for the last bit of its sum.
    return [int(size) for size in np.rint((weights * candidates.sizes).sum(1))]


def _parameter(shape: tuple[int, int], generator: torch.Generator, device: torch.device | str) -> Tensor:
    return (1e-3 * torch.randn(shape, generator=generator)).to(device).requires_grad_(True)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator, sampling: Sampling) -> Tensor:
    """Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144), hard, the gradient being that of the soft draw."""
    if sampling == "mixture":
        return functional.softmax(logits, -1)
    # The noise comes from the processor's generator, so a draw is the same on every device.
    noise = -torch.empty(logits.shape).exponential_(generator=generator).clamp_min(1e-20).log()
    soft = functional.softmax((logits + noise.to(logits.device)) / temperature, -1)
    hard = functional.one_hot(soft.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # in this order the value is exactly 0 or 1
