"""The search space: a finite lattice of choices and the rule that decodes a point into an architecture.

AutoPEFT's space (arXiv 2301.12132, section 3.1) shares one size a method over all layers and adds one Boolean a
layer; BIPEFT's (EMNLP Findings 2024, section 3.1) gives every placement its own size. Both are the same object:
a tuple of `Choice`s and, for every place where a module may stand, a `Slot` that says which choice gives its
size and which one switches it on.

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
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autopeft.architecture import Architecture, Cost, CountKind, ParameterBudget, Placement
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError

Indices = NDArray[np.int64]  # (n, d): one configuration a row, one index into a choice's values a column
Sharing = Literal["shared", "layer", "placement"]
Encoding = Literal["unit", "released"]

_BLOCK = 4096
_MOST_BLOCKS = 50
_IDLE_BLOCKS = 3
_MOST_ENUMERATED = 1 << 20


class SiteLike(Protocol):
    """What the space asks of a site of the backbone."""

    @property
    def key(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def role(self) -> str: ...


class BackboneLike(Protocol):
    """What the space asks of a backbone."""

    @property
    def sites(self) -> Mapping[str, Any]: ...
    @property
    def hidden_size(self) -> int: ...


class MethodLike(Protocol):
    """What the space asks of a method."""

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def is_sized(self) -> bool: ...
    @property
    def stacks(self) -> tuple[str, ...]: ...
    def cost(self, site: Any) -> Cost: ...


def stands_at(method: MethodLike, site: SiteLike, roles: Sequence[str] | None = None) -> bool:
    """Whether `method` may stand at `site`: it has one of `roles` (its own when None), in a stack that it is for."""
    return site.role in (roles or method.roles) and (not method.stacks or site.stack in method.stacks)


@dataclass(frozen=True)
class Choice:
    """One coordinate: a name and its ordered values. Sizes increase and may begin with 0; a switch is ``(0, 1)``."""

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)) or self.values[0] < 0:
            raise SettingsError(f"The values of {self.name!r} must increase from at least 0, but got {self.values}.")


@dataclass(frozen=True)
class Slot:
    """A place where a module may stand.

    Args:
        size: index of the choice that gives the size.
        switch: index of the choice that switches it on, or None when it has no switch.
    """

    method: str
    site: str
    cost: Cost
    size: int
    switch: int | None = None


@dataclass(frozen=True)
class Configuration:
    """A point of the lattice: for every choice the index of the value taken. What samplers propose."""

    indices: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One method of a space. `sizes` and `roles` default to the method's own; 0 among the sizes means absent."""

    method: MethodLike
    sizes: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None


def binary_logarithmic_sizes(hidden_size: int) -> tuple[int, ...]:
    """0 and the halvings of the hidden size down to 1: 11 values for 768, 12 for 1024 (AutoPEFT, section 3.1)."""
    halvings = {max(1, hidden_size >> k) for k in range(hidden_size.bit_length())}
    return (0, *sorted(halvings))


@dataclass(frozen=True)
class SearchSpace:
    """A finite lattice of configurations and its decoding rule.

    Args:
        choices: the coordinates; the lattice is their product.
        slots: every place where a module may stand.
        budget: a hard limit; configurations outside it are infeasible.
    """

    choices: tuple[Choice, ...]
    slots: tuple[Slot, ...]
    budget: ParameterBudget | None = None
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
    ) -> SearchSpace:
        """The lattice over the sites of `backbone` that the methods of `axes` can stand at.

        Args:
            sharing: "shared": one size a method (AutoPEFT); "layer": one size a method and layer;
                "placement": one size a method and site (BIPEFT).
            layers: "search": one Boolean a layer; "all": every layer is on; or the 0-based layers that are on,
                counted within each stack.

        Raises:
            SettingsError: there is no axis, a method stands nowhere on this backbone, or a layer does not exist.
            ArchitectureError: a method cannot read what it has to at one of its places.
            BudgetError: no configuration satisfies the budget.
        """
        builder = _Builder(sharing, layers == "search")
        allowed = None if isinstance(layers, str) else frozenset(layers)
        _check_layers(backbone, allowed)
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
        sizes = self.identity(configuration)
        placed = (Placement(s.site, s.method, n) for s, n in zip(self.slots, sizes, strict=True) if n)
        return Architecture(tuple(placed))

    def identity(self, configuration: Configuration) -> tuple[int, ...]:
        """The size at every slot, 0 where absent: equal exactly when the architectures are equal."""
        values = [choice.values[i] for choice, i in zip(self.choices, configuration.indices, strict=True)]
        return tuple(values[s.size] * (1 if s.switch is None else values[s.switch]) for s in self.slots)

    def cost(self, configuration: Configuration, kind: CountKind = "nominal") -> int:
        """Parameters of the architecture, without building it."""
        return int(self.costs(np.array([configuration.indices], dtype=np.int64), kind)[0])

    def is_feasible(self, configuration: Configuration) -> bool:
        """Whether anything but the head would train, and the budget allows it."""
        return bool(self.feasible(np.array([configuration.indices], dtype=np.int64))[0])

    def configuration(self, architecture: Architecture) -> Configuration | None:
        """A configuration that decodes to `architecture`, or None when the space does not hold it."""
        wanted = {(p.method, p.site): p.size for p in architecture}
        sizes: dict[int, set[int]] = {}
        switches: dict[int, bool] = {}
        for slot in self.slots:
            size = wanted.get((slot.method, slot.site), 0)
            if size:
                sizes.setdefault(slot.size, set()).add(size)
            if slot.switch is not None:
                switches[slot.switch] = switches.get(slot.switch, False) or bool(size)
        indices = []
        for position, choice in enumerate(self.choices):
            value = (
                max(sizes.get(position, {choice.values[0]})) if position not in switches else int(switches[position])
            )
            if value not in choice.values:
                return None
            indices.append(choice.values.index(value))
        found = Configuration(tuple(indices))
        return found if self.decode(found) == architecture else None

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
        used = {position for slot in self.slots for position in (slot.size, slot.switch)}
        idle = math.prod(len(choice.values) for n, choice in enumerate(self.choices) if n not in used)
        return self.cardinality - idle * math.prod(self._n_empty(part) for part in self._components())

    def cost_range(self, kind: CountKind = "nominal") -> tuple[int, int]:
        """The least and the largest cost of a valid configuration, whatever the budget."""
        base = np.zeros((1, self.n_choices), dtype=np.int64)
        rows = [base]
        for size, switch in {(slot.size, slot.switch) for slot in self.slots}:
            row = base.copy()
            values = self.choices[size].values
            row[0, size] = 1 if values[0] == 0 and len(values) > 1 else 0
            if switch is not None:
                row[0, switch] = len(self.choices[switch].values) - 1
            rows.append(row)
        candidates = np.concatenate(rows)
        stored = self.costs(candidates, "stored")
        low = self.costs(candidates, kind)[stored > 0]
        return int(low.min()), self.cost(self.largest(), kind)

    def largest(self) -> Configuration:
        """Every switch on and every size at its largest, whatever the budget."""
        return Configuration(tuple(len(choice.values) - 1 for choice in self.choices))

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
            lines = [(slot.cost.line(kind), self.choices[slot.size].values) for slot in self.slots]
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
                now, last = row[column], len(self.choices[column].values) - 1
                lower = 0 if is_last else int(now * drawn)
                higher = last if is_last else min(now + 1 + int((last - now) * drawn), last)
                before = sum(map(cost, self._slots_of[column]))
                row[column] = lower if total > most else higher
                total += sum(map(cost, self._slots_of[column])) - before
        return row

    def _components(self) -> list[list[Slot]]:
        """Slots grouped so that no choice is used in two groups."""
        groups: list[tuple[set[int], list[Slot]]] = []
        for slot in self.slots:
            used = {slot.size} | ({slot.switch} if slot.switch is not None else set())
            joined = [group for group in groups if group[0] & used]
            groups = [group for group in groups if not group[0] & used]
            union = used.union(*(group[0] for group in joined))
            groups.append((union, [*itertools.chain.from_iterable(group[1] for group in joined), slot]))
        return [slots for _, slots in groups]

    def _n_empty(self, slots: list[Slot]) -> int:
        """Settings of the choices of one component at which none of its slots holds a module."""
        sizes = sorted({slot.size for slot in slots})
        switches = sorted({slot.switch for slot in slots if slot.switch is not None})
        if len(switches) < len(sizes):
            return self._n_empty_by_switch(slots, sizes, switches)
        empty = 0
        for present in itertools.product((False, True), repeat=len(sizes)):
            on = dict(zip(sizes, present, strict=True))
            blocked = {slot.switch for slot in slots if on[slot.size]}
            ways = 0 if None in blocked else 1
            for size in sizes:
                nonzero = sum(1 for value in self.choices[size].values if value)
                ways *= nonzero if on[size] else len(self.choices[size].values) - nonzero
            for switch in switches:
                ways *= 1 if switch in blocked else len(self.choices[switch].values)
            empty += ways
        return empty

    def _n_empty_by_switch(self, slots: list[Slot], sizes: list[int], switches: list[int]) -> int:
        """The same by going through the switches: a layer of many sizes behind one switch has few of them."""
        empty = 0
        for present in itertools.product((False, True), repeat=len(switches)):
            on = dict(zip(switches, present, strict=True))
            needed = {slot.size for slot in slots if slot.switch is None or on[slot.switch]}
            ways = math.prod(len(self.choices[switch].values) - 1 for switch in switches if on[switch])
            for size in sizes:
                values = self.choices[size].values
                ways *= values.count(0) if size in needed else len(values)
            empty += ways
        return empty


class _Builder:
    """Collects choices in the order in which they are first needed: layers first, as the papers list them."""

    def __init__(self, sharing: Sharing, is_layer_searched: bool) -> None:
        if sharing not in ("shared", "layer", "placement"):
            raise SettingsError(f"sharing is 'shared', 'layer' or 'placement', but got {sharing!r}.")
        self.sharing, self.is_layer_searched = sharing, is_layer_searched
        self._choices: dict[str, Choice] = {}
        self.slots: list[Slot] = []
        self._prefixes: dict[str, str] = {}  # site to method, at the key/value seam

    @property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(self._choices.values())

    def add(self, backbone: BackboneLike, axis: Axis, allowed: frozenset[int] | None) -> None:
        method = axis.method
        roles = axis.roles or method.roles
        sites = [site for site in backbone.sites.values() if stands_at(method, site, roles)]
        sites = [site for site in sites if allowed is None or site.layer in allowed]
        if not sites:
            known = sorted({site.role for site in backbone.sites.values()})
            raise SettingsError(
                f"The method {method.name!r} stands at {', '.join(roles)}, "
                f"but this backbone has only {', '.join(known)}."
            )
        default = binary_logarithmic_sizes(backbone.hidden_size) if method.is_sized else (0, 1)
        sizes = tuple(sorted(set(axis.sizes or default)))
        wrong = [*self._misplaced(method, sites), *_misfitting(method, sizes)]
        if wrong:
            raise SettingsError(f"The method {method.name!r} does not fit this space: {'; '.join(wrong)}.")
        for site in sites:
            self._switch(site)
        for site in sites:
            self._add_slot(method, site, sizes)

    def _misplaced(self, method: MethodLike, sites: Sequence[Any]) -> list[str]:
        """What `attach` would refuse at the first trial: to be told before there is a study."""
        wrong, seam = [], getattr(method, "seam", None)
        other = sorted({site.role for site in sites if getattr(site, "seam", seam) != seam})
        if other:
            wrong.append(f"it stands at {', '.join(method.roles)}, not at {', '.join(other)}")
        if seam == "kv":
            there = sorted({self._prefixes[site.key] for site in sites if site.key in self._prefixes})
            wrong += [f"a layer holds one kind of prefix, and there is {name!r} already" for name in there]
            self._prefixes |= {site.key: method.name for site in sites}
        return wrong

    def _switch(self, site: SiteLike) -> int | None:
        if not self.is_layer_searched or site.layer is None:
            return None
        return self._index(f"layer.{site.stack}.{site.layer}", (0, 1))

    def _add_slot(self, method: MethodLike, site: SiteLike, sizes: tuple[int, ...]) -> None:
        suffix = {"shared": "", "layer": f"@{site.stack}.{site.layer}", "placement": f"@{site.key}"}[self.sharing]
        size = self._index(method.name + suffix, sizes)
        self.slots.append(Slot(method.name, site.key, method.cost(site), size, self._switch(site)))

    def _index(self, name: str, values: tuple[int, ...]) -> int:
        self._choices.setdefault(name, Choice(name, values))
        return list(self._choices).index(name)


def _misfitting(method: MethodLike, sizes: tuple[int, ...]) -> list[str]:
    if not sizes[-1]:
        return [f"its sizes {list(sizes)} hold nothing above 0"]
    if not method.is_sized and sizes[-1] > 1:
        return [f"its only size is 1, but got {list(sizes)}"]
    return []


def _check_layers(backbone: BackboneLike, allowed: frozenset[int] | None) -> None:
    known = {site.layer for site in backbone.sites.values()}
    wrong = sorted((allowed or frozenset()) - known)
    if wrong:
        last = max(layer for layer in known if layer is not None)
        raise SettingsError(f"Layers are numbered 0 to {last}, but got {', '.join(map(str, wrong))}.")
