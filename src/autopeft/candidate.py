"""What a trial trains: an architecture, and what it changes about the recipe that all trials share.

The learning rate decides as much about a module as its placement does, and the best one differs from method to method.
So a point of the search may carry changes of the recipe with it. An architecture without changes is the same candidate
that it was before there were any: the same stored bytes, the same fingerprint.

What a model computes once it is trained belongs to the architecture (a placement's scale does), what only its training
needs to the changes. Cost depends on the architecture alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from autopeft.architecture import Architecture, is_factor
from autopeft.errors import ArchitectureError
from autopeft.reading import read_json


class RecipeLike(Protocol):
    """What changes are made to; `autopeft.training.recipe.Recipe` has it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def learning_rate(self) -> float: ...
    @property
    def rate_factors(self) -> Mapping[str, float]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def steps(self) -> int | None: ...


RecipeT = TypeVar("RecipeT", bound=RecipeLike)


@dataclass(frozen=True)
class Changes:
    """What is changed about a recipe; nothing by default.

    Args:
        learning_rate: takes the place of the recipe's; None keeps it.
        rate_factor: what the learning rate is multiplied by, for the modules and the head alike.
        rate_factors: pairs of a method and what the rate of its modules is multiplied by, beside the recipe's own
            factors and `rate_factor`. Sorted, and without factors of 1, so that equal changes compare equal.
        batch_factor: what the examples a step are multiplied by: with a quarter there are four times as many steps, and
            as many examples go through the model as before.
        dropout_factor: 1 for dropout as the recipe has it, 0 for none.

    Raises:
        ArchitectureError: a rate or a factor is no finite number above 0 (of dropout: neither 0 nor 1), or a method is
            named twice.
    """

    learning_rate: float | None = None
    rate_factor: float = 1.0
    rate_factors: tuple[tuple[str, float], ...] = ()
    batch_factor: float = 1.0
    dropout_factor: float = 1.0

    def __post_init__(self) -> None:
        given = dict(self.rate_factors)
        rates = [] if self.learning_rate is None else [self.learning_rate]
        wrong = [
            value for value in (*rates, self.rate_factor, self.batch_factor, *given.values()) if not is_factor(value)
        ]
        if wrong:
            raise ArchitectureError(f"Rates and their factors are finite and above 0, but got {wrong[0]!r:.99}.")
        # Other shares would need the rates of the model, which a recipe that leaves them as they are does not know.
        if type(self.dropout_factor) not in (int, float) or self.dropout_factor not in (0, 1):
            raise ArchitectureError(f"The factor of dropout is 0 or 1, but got {self.dropout_factor!r:.99}.")
        if len(given) < len(self.rate_factors):
            raise ArchitectureError(f"A method has one factor, but got {self.rate_factors!r:.99}.")
        # As for placements: what is trained alike must be equal, whoever wrote it down and in which order.
        kept = sorted((str(name), float(factor)) for name, factor in given.items() if factor != 1)
        object.__setattr__(self, "rate_factors", tuple(kept))

    @property
    def is_empty(self) -> bool:
        """True when the recipe stays as it is."""
        return self == Changes()

    def recipe_for(self, recipe: RecipeT) -> RecipeT:
        """`recipe` with these changes; the very same when there are none."""
        if self.is_empty:
            return recipe
        rate = recipe.learning_rate if self.learning_rate is None else self.learning_rate
        own = dict(recipe.rate_factors)
        # Multiplied and not replaced, so that a space of factors can be searched around factors that the recipe has.
        factors = own | {name: own.get(name, 1.0) * factor for name, factor in self.rate_factors}
        more = self._steps_for(recipe) | ({"dropout": 0.0} if self.dropout_factor == 0 else {})
        return replace(recipe, learning_rate=rate * self.rate_factor, rate_factors=factors, **more)

    def _steps_for(self, recipe: RecipeLike) -> dict[str, float]:
        """What `batch_factor` changes about `recipe`."""
        # Left out where nothing changes: a stand-in for a recipe need not know of batches.
        if self.batch_factor == 1:
            return {}
        size = batch_of(recipe.batch_size, self.batch_factor)
        if recipe.steps is None:
            return {"batch_size": size}
        # A run of so many steps would go through fewer examples with smaller batches, and look worse for that alone.
        return {"batch_size": size, "steps": max(1, round(recipe.steps * recipe.batch_size / size))}

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of what is changed alone; `from_dict` is its inverse."""
        # Only what is changed: an architecture without changes has the bytes that it had before there were any.
        found: dict[str, Any] = {}
        if self.learning_rate is not None:
            found["learning_rate"] = self.learning_rate
        if self.rate_factor != 1:
            found["rate_factor"] = self.rate_factor
        if self.rate_factors:
            found["rate_factors"] = dict(self.rate_factors)
        if self.batch_factor != 1:
            found["batch_factor"] = self.batch_factor
        if self.dropout_factor != 1:
            found["dropout_factor"] = self.dropout_factor
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Changes:
        """The changes written by `as_dict`; keys that are missing change nothing.

        Raises:
            ArchitectureError: the mapping does not have that form, or holds a key that this version does not know:
                what it changes must not be lost in silence.
        """
        if data == {}:  # most trials change nothing, and a study has thousands
            return UNCHANGED
        known = ("learning_rate", "rate_factor", "rate_factors", "batch_factor", "dropout_factor")
        factors = data.get("rate_factors", {}) if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or not isinstance(factors, Mapping) or set(data) - set(known):
            raise ArchitectureError(f"Changes of a recipe are an object with {', '.join(known)}, but got {data!r:.99}.")
        rate, factor = data.get("learning_rate"), data.get("rate_factor", 1.0)
        more = (data.get(name, 1.0) for name in ("batch_factor", "dropout_factor"))
        return cls(rate, factor, tuple(factors.items()), *more)

    def __str__(self) -> str:
        rate = [] if self.learning_rate is None else [f"rate {self.learning_rate:g}"]
        overall = [] if self.rate_factor == 1 else [f"rate×{self.rate_factor:.3g}"]
        by_method = [f"rate.{name}×{factor:.3g}" for name, factor in self.rate_factors]
        batch = [] if self.batch_factor == 1 else [f"batch×{self.batch_factor:.3g}"]
        dropout = [] if self.dropout_factor == 1 else ["no dropout"]
        return " ".join([*rate, *overall, *by_method, *batch, *dropout])


def batch_of(size: int, factor: float) -> int:
    """The examples a step that `factor` makes of `size`: whole, and at least one."""
    return max(1, round(size * factor))


UNCHANGED = Changes()
"""The recipe as it stands."""


@dataclass(frozen=True)
class Candidate:
    """An architecture and the changes of the recipe that it is trained with; hashable, equal when trained alike.

    Factors for methods that the architecture does not hold change nothing and are left out.
    """

    architecture: Architecture
    changes: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        if not self.changes.rate_factors:
            return
        held = set(self.architecture.methods)
        kept = tuple(pair for pair in self.changes.rate_factors if pair[0] in held)
        if kept != self.changes.rate_factors:
            object.__setattr__(self, "changes", replace(self.changes, rate_factors=kept))

    @classmethod
    def of(cls, given: Candidate | Architecture) -> Candidate:
        """`given` itself, or the candidate of an architecture without changes."""
        return given if isinstance(given, Candidate) else cls(given)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify it: those of the architecture where nothing is changed."""
        if self.changes.is_empty:
            return self.architecture.fingerprint
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def recipe_for(self, recipe: RecipeT) -> RecipeT:
        """`recipe` as this candidate is trained with it."""
        return self.changes.recipe_for(recipe)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping: ``architecture`` and, where there are any, ``changes``; `from_dict` is its inverse."""
        changes = {} if self.changes.is_empty else {"changes": self.changes.as_dict()}
        return {"architecture": self.architecture.as_dict(), **changes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The candidate written by `as_dict`, or any mapping that holds the same two keys.

        Raises:
            ArchitectureError: the mapping does not have that form.
        """
        if not isinstance(data, Mapping):
            raise ArchitectureError(f"A candidate is an object with an architecture, but got {data!r:.99}.")
        return cls(Architecture.from_dict(data.get("architecture", {})), Changes.from_dict(data.get("changes", {})))

    @classmethod
    def load(cls, path: str | Path) -> Candidate:
        """Read an architecture's file (see `Architecture.load`), with the changes where it says some.

        Raises:
            ArchitectureError: the file is missing or is not such JSON.
        """
        data = read_json(path, "The architecture file", ArchitectureError)
        # Both forms are read: a bare architecture is what `Architecture.save` writes.
        return cls.from_dict(data if isinstance(data, dict) and "architecture" in data else {"architecture": data})

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.architecture), str(self.changes)) if part)
