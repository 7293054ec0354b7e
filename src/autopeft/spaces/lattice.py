"""The search space: a finite lattice of choices and the rule that decodes a point into an architecture.

AutoPEFT's space (arXiv 2301.12132, section 3.1) shares one size a method over all layers and adds one Boolean a
layer; BIPEFT's (EMNLP Findings 2024, section 3.1) gives every placement its own size. Both are the same object:
a tuple of `Choice`s and, for every place where a module may stand, a `Slot` that says which choice gives its
size and which one switches it on.

A `Dial` says which choice turns a learning rate or a scale: what a point decodes to is a `Candidate`.

The lattice knows no model: costs are numbers that were asked from the methods when it was built.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture, CountKind, ParameterBudget
from autopeft.candidate import Candidate
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError
from autopeft.spaces.build import Axis, BackboneLike, Builder, Sharing, check_layers
from autopeft.spaces.choices import Choice, Configuration, Dial, Slot
from autopeft.spaces.count import n_valid
from autopeft.spaces.decoding import candidate_at, configuration_of, identity_at, resting

__all__ = ["Axis", "Choice", "Configuration", "Dial", "Encoding", "Indices", "SearchSpace", "Slot"]

Indices = NDArray[np.int64]  # (n, d): one configuration a row, one index into a choice's values a column
Encoding = Literal["unit", "released"]

_BLOCK = 4096
_MOST_BLOCKS = 50
_IDLE_BLOCKS = 3
_MOST_ENUMERATED = 1 << 20


@dataclass(frozen=True)
class SearchSpace:
    """A finite lattice of configurations and its decoding rule.

    Args:
        choices: the coordinates; the lattice is their product.
        slots: every place where a module may stand.
        budget: a hard limit; configurations outside it are infeasible.
        dials: which of the choices turn learning rates and scales; none in the papers' spaces.
    """

    choices: tuple[Choice, ...]
    slots: tuple[Slot, ...]
    budget: ParameterBudget | None = None
    dials: tuple[Dial, ...] = ()
    # A search asks for the costs of thousands of points: by table each is a few look-ups and additions.
    _tables: dict[CountKind, tuple[NDArray[np.int64], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    # -- building ------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        backbone: BackboneLike,
        axes: Sequence[Axis],
        *,
        sharing: Sharing = "shared",
        layers: Literal["search", "all"] | Sequence[int] = "search",
        budget: ParameterBudget | None = None,
        bands: int = 1,
    ) -> SearchSpace:
        """The lattice over the sites of `backbone` that the methods of `axes` can stand at.

        Args:
            sharing: "shared": one size a method (AutoPEFT); "layer": one size a method and layer;
                "placement": one size a method and site (BIPEFT); "band": one a method and run of neighbouring layers.
            layers: "search": one Boolean a layer; "all": every layer is on; or the 0-based layers that are on,
                counted within each stack.
            bands: how many runs of neighbouring layers a stack is cut into, for the sharing "band".

        Raises:
            SettingsError: there is no axis, a method stands nowhere on this backbone, or a layer does not exist.
            ArchitectureError: a method cannot read what it has to at one of its places.
            BudgetError: no configuration satisfies the budget.
        """
        builder = Builder(sharing, layers == "search", bands)
        allowed = None if isinstance(layers, str) else frozenset(layers)
        check_layers(backbone, allowed)
        for axis in axes:
            builder.add(backbone, axis, allowed)
        if not builder.slots:
            raise SettingsError("A search space needs at least one method that fits the backbone.")
        return cls(builder.choices, tuple(builder.slots)).within(budget)

    def within(self, budget: ParameterBudget | None) -> SearchSpace:
        """The same lattice under `budget` (None lifts it).

        Raises:
            BudgetError: no configuration satisfies the budget.
        """
        space = replace(self, budget=budget)
        if budget is None:
            return space
        low, high = self.cost_range(budget.count)
        if budget.most < low or budget.least > high:
            raise BudgetError(
                f"No architecture of this space has {budget}: "
                f"they cost from {low:,} to {high:,} {budget.count} parameters."
            )
        if budget.least <= low:
            return space  # the cheapest configuration satisfies it
        try:
            # Whether costs reach a band is a knapsack problem, so that a point is looked for and not proved.
            space.sample(np.random.default_rng(0), 1)
        except SpaceExhaustedError as error:
            raise BudgetError(f"No architecture of this space was found that has {budget}.") from error
        return space

    # -- one point -----------------------------------------------------------------------------------------

    @property
    def n_choices(self) -> int:
        """Dimension of the lattice."""
        return len(self.choices)

    def decode(self, configuration: Configuration) -> Architecture:
        """The architecture that `configuration` stands for. Several configurations may stand for the same."""
        return self.candidate(configuration).architecture

    def candidate(self, configuration: Configuration) -> Candidate:
        """The architecture that `configuration` stands for, with what it changes about the recipe."""
        return candidate_at(self, configuration)

    def identity(self, configuration: Configuration) -> tuple[int, ...]:
        """Equal exactly when the candidates are equal: the size at every slot, 0 where absent, and how dials stand."""
        return identity_at(self, configuration)

    def cost(self, configuration: Configuration, kind: CountKind = "nominal") -> int:
        """Parameters of the architecture, without building it."""
        return int(self.costs(np.array([configuration.indices], dtype=np.int64), kind)[0])

    def is_feasible(self, configuration: Configuration) -> bool:
        """Whether anything but the head would train, and the budget allows it."""
        return bool(self.feasible(np.array([configuration.indices], dtype=np.int64))[0])

    def configuration(self, candidate: Candidate | Architecture) -> Configuration | None:
        """A configuration that decodes to `candidate`, or None when the space does not hold it."""
        return configuration_of(self, Candidate.of(candidate))

    # -- many points ---------------------------------------------------------------------------------------

    def costs(self, indices: Indices, kind: CountKind = "nominal") -> NDArray[np.int64]:
        """Parameters of each configuration. `indices`: ``(n, d)``; returns ``(n,)``."""
        totals = np.zeros(len(indices), dtype=np.int64)
        for slot, table in zip(self.slots, self._cost_tables(kind), strict=True):
            counts = table[indices[:, slot.size]]
            totals += counts if slot.switch is None else counts * self._values[slot.switch][indices[:, slot.switch]]
        return totals

    def feasible(self, indices: Indices) -> NDArray[np.bool_]:
        """Which configurations train something and satisfy the budget. `indices`: ``(n, d)``; returns ``(n,)``."""
        # By what is stored, as biases alone have no nominal parameters and train all the same.
        stored = self.costs(indices, "stored")
        if self.budget is None:
            return stored > 0
        costs = stored if self.budget.count == "stored" else self.costs(indices, self.budget.count)
        return (stored > 0) & (costs >= self.budget.least) & (costs <= self.budget.most)

    def sample(self, rng: np.random.Generator, n: int = 1) -> list[Configuration]:
        """`n` feasible configurations, uniform over indices by rejection; repeats are possible.

        Under a budget so tight that thousands of draws hold nothing, random configurations are changed choice by choice
        until they fit; those are not uniform, they lie near the budget's limits.

        Raises:
            SpaceExhaustedError: no feasible configuration was found.
        """
        found: list[Configuration] = []
        counts = np.array([len(choice.values) for choice in self.choices])
        # A first block that is small serves a space where most points fit; only a tight budget pays for large ones.
        few = min(_BLOCK, max(64, 4 * n))

        def keep(block: Indices) -> bool:
            found.extend(Configuration(tuple(map(int, row))) for row in block[self.feasible(block)])
            return len(found) >= n

        for number in range(_MOST_BLOCKS):
            if keep(rng.integers(0, counts, size=(_BLOCK if number else few, len(counts)))):
                return found[:n]
            if not found and self.budget is not None and number + 1 >= _IDLE_BLOCKS:
                break
        if not found and self.budget is not None:
            for _ in range(_MOST_BLOCKS):
                block = rng.integers(0, counts, size=(few, len(counts)))
                if keep(np.array([self._fitted(row, rng) for row in block.tolist()], dtype=np.int64)):
                    return found[:n]
        if not found:
            raise SpaceExhaustedError("No feasible configuration was found in this search space.")
        return [found[i] for i in rng.integers(0, len(found), n)]

    def enumerate(self) -> Iterator[Configuration]:
        """Every feasible configuration, in lexicographic order."""
        ranges = [range(len(choice.values)) for choice in self.choices]
        points = itertools.product(*ranges)
        while block := list(itertools.islice(points, _BLOCK)):
            rows = np.array(block, dtype=np.int64)
            yield from (Configuration(tuple(map(int, row))) for row in rows[self.feasible(rows)])

    def neighbours(self, configuration: Configuration) -> list[Configuration]:
        """The feasible configurations that differ in exactly one choice: 42 for the space of BERT-base."""
        rows = []
        for position, choice in enumerate(self.choices):
            for index in range(len(choice.values)):
                if index != configuration.indices[position]:
                    rows.append((*configuration.indices[:position], index, *configuration.indices[position + 1 :]))
        if not rows:
            return []
        kept = self.feasible(np.array(rows, dtype=np.int64))
        return [Configuration(row) for row, ok in zip(rows, kept, strict=True) if ok]

    # -- encoding ------------------------------------------------------------------------------------------

    def encode(self, configurations: Sequence[Configuration], style: Encoding = "unit") -> NDArray[np.float64]:
        """Configurations as rows of the unit cube, for a surrogate. Returns ``(n, d)``.

        "unit": ``index / (count - 1)``, increasing with size. "released": the margins that the authors'
        configuration library leaves, and sizes running from large to small.
        """
        rows = np.array([c.indices for c in configurations], dtype=np.float64).reshape(-1, self.n_choices)
        counts = np.array([len(choice.values) for choice in self.choices], dtype=np.float64)
        if style == "unit":
            return np.asarray(rows / np.maximum(counts - 1, 1))
        # The library maps a whole number so that both ends keep half a step from the border.
        return np.asarray((counts - 1 - rows + 0.49999) / (counts - 1 + 0.99998))

    def decode_row(self, row: Sequence[float] | NDArray[np.float64]) -> Configuration:
        """The configuration nearest to a row of the unit cube; the inverse of `encode` in style "unit"."""
        counts = [len(choice.values) for choice in self.choices]
        return Configuration(
            tuple(min(n - 1, max(0, round(float(x) * (n - 1)))) for x, n in zip(row, counts, strict=True))
        )

    # -- facts ---------------------------------------------------------------------------------------------

    @property
    def cardinality(self) -> int:
        """Number of points of the lattice, the invalid ones among them."""
        return math.prod(len(choice.values) for choice in self.choices)

    @cached_property
    def n_valid(self) -> int:
        """Number of points at which something trains, whatever the budget."""
        return n_valid(self.choices, self.slots)

    def cost_range(self, kind: CountKind = "nominal") -> tuple[int, int]:
        """The least and the largest cost of a valid configuration, whatever the budget."""
        base = np.zeros((1, self.n_choices), dtype=np.int64)
        rows = [base]
        for size, switch in {(slot.size, slot.switch) for slot in self.slots}:
            row = base.copy()
            values = self.choices[size].values
            # The smallest size above absence: the cheapest point that trains anything has one module alone.
            row[0, size] = 1 if values[0] == 0 and len(values) > 1 else 0
            if switch is not None:
                row[0, switch] = len(self.choices[switch].values) - 1
            rows.append(row)
        candidates = np.concatenate(rows)
        stored = self.costs(candidates, "stored")
        low = self.costs(candidates, kind)[stored > 0]
        return int(low.min()), self.cost(self.largest(), kind)

    def largest(self) -> Configuration:
        """Every switch on and every size at its largest, whatever the budget; dials rest."""
        return Configuration(tuple(self.resting.get(n, len(c.values) - 1) for n, c in enumerate(self.choices)))

    @cached_property
    def resting(self) -> Mapping[int, int]:
        """For every choice of a dial the index where a search begins."""
        return {dial.choice: _rest(dial, self.choices[dial.choice]) for dial in self.dials}

    def as_dict(self) -> dict[str, Any]:
        """What identifies the space, JSON-ready: stored with a study and compared when it is resumed."""
        budget = self.budget and {
            "most": self.budget.most,
            "least": self.budget.least,
            "count": self.budget.count,
        }
        return {
            "choices": [[choice.name, list(choice.values)] for choice in self.choices],
            "slots": [[slot.method, slot.site, slot.size, slot.switch] for slot in self.slots],
            "budget": budget,
            # Left out where there are none: the fingerprints of the papers' spaces stand in every stored study.
            **({"dials": [dial.as_row() for dial in self.dials]} if self.dials else {}),
        }

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify the space."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def unseen(self, seen: Iterable[tuple[int, ...]], rng: np.random.Generator) -> Configuration:
        """A uniformly random feasible configuration whose `identity` is not in `seen`.

        Raises:
            SpaceExhaustedError: every feasible architecture has been seen, or no other was found in a large space.
        """
        known = set(seen)
        # Almost always one of these is new, and listing what is left takes a second in a space of a million points.
        for configuration in self.sample(rng, 256):
            if self.identity(configuration) not in known:
                return configuration
        if self.cardinality <= _MOST_ENUMERATED:
            left = [c for c in self.enumerate() if self.identity(c) not in known]
            if left:
                return left[int(rng.integers(len(left)))]
        else:
            for configuration in self.sample(rng, _BLOCK):
                if self.identity(configuration) not in known:
                    return configuration
            raise SpaceExhaustedError(f"No feasible architecture was found beyond the {len(known)} that were seen.")
        raise SpaceExhaustedError(f"Every feasible architecture of this space has been seen: {len(known)} of them.")

    # -- inside --------------------------------------------------------------------------------------------

    @cached_property
    def _values(self) -> tuple[NDArray[np.int64], ...]:
        return tuple(np.array(choice.values, dtype=np.int64) for choice in self.choices)

    def _cost_tables(self, kind: CountKind) -> tuple[NDArray[np.int64], ...]:
        if kind not in self._tables:
            lines = [(slot.cost.line(kind), self.choices[slot.size].sizes) for slot in self.slots]
            self._tables[kind] = tuple(np.array([line.at(v) for v in values], dtype=np.int64) for line, values in lines)
        return self._tables[kind]

    @cached_property
    def _slots_of(self) -> tuple[tuple[int, ...], ...]:
        """For every choice the slots that it bears on."""
        found: list[list[int]] = [[] for _ in self.choices]
        for index, slot in enumerate(self.slots):
            for position in {slot.size, slot.size if slot.switch is None else slot.switch}:
                found[position].append(index)
        return tuple(map(tuple, found))

    def _fitted(self, row: list[int], rng: np.random.Generator) -> list[int]:
        """Lower random choices of a row that is above the budget, raise those of one that is below.

        Every choice has its turn, in random order: twice by a random part of the way, at last all the way, which
        ends within any upper limit wherever modules can be absent. The cost is kept up to date by what changes, so
        that a space of a thousand choices is no obstacle.
        """
        assert self.budget is not None
        least, most = self.budget.least, self.budget.most
        tables = self._cost_tables(self.budget.count)

        def cost(index: int) -> int:
            slot = self.slots[index]
            switch = 1 if slot.switch is None else int(self._values[slot.switch][row[slot.switch]])
            return switch * int(tables[index][row[slot.size]])

        total = sum(map(cost, range(len(self.slots))))
        for is_last in (False, False, True):
            for column, drawn in zip(rng.permutation(self.n_choices), rng.random(self.n_choices), strict=True):
                if least <= total <= most:
                    return row
                if column in self.resting:
                    continue  # a dial costs nothing: turning it would bring no configuration nearer to the budget
                now, last = row[column], len(self.choices[column].values) - 1
                lower = 0 if is_last else int(now * drawn)
                higher = last if is_last else min(now + 1 + int((last - now) * drawn), last)
                before = sum(map(cost, self._slots_of[column]))
                row[column] = lower if total > most else higher
                total += sum(map(cost, self._slots_of[column])) - before
        return row


def _rest(dial: Dial, choice: Choice) -> int:
    return resting(choice) if dial.rest is None else choice.values.index(dial.rest)
