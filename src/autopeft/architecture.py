"""What is searched for: which PEFT modules, where, and how large.

An `Architecture` is a set of `Placement`s. It names sites and methods by their keys only, so it can be stored,
compared and priced without a model.

Parameter counts come in three kinds, which are never mixed:

* *nominal*: the papers' rule, weights only (AutoPEFT, arXiv 2301.12132, tables 1 to 5);
* *stored*: what is shipped: adds biases; a prefix counts after its reparametrisation has been folded away;
* *trained*: what the optimiser holds: adds the prefix reparametrisation and the task head.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from autopeft.errors import ArchitectureError, BudgetError
from autopeft.reading import read_json
from autopeft.writing import ARCHITECTURE, check_file, write_whole

CountKind = Literal["nominal", "stored", "trained"]

SUMMED: tuple[CountKind, ...] = ("nominal", "stored")
"""The counts that are sums over placements, so that they can be limited; what is trained depends on the head too."""

MOST_SIZE = 1_000_000
"""The largest size of a placement: more units than any transformer is wide, and fewer than fill a memory."""

_MOST_LETTERS = 200  # of the name of a site or a method


@dataclass(frozen=True)
class Line:
    """A count that is linear in the size: ``fixed + per_unit * size`` when present, 0 when absent (size 0)."""

    fixed: int
    per_unit: int

    def at(self, size: int) -> int:
        """The count at `size` units."""
        # A bias that a module has once is gone with the module, so that the line does not go through its value at 0.
        return self.fixed + self.per_unit * size if size else 0


@dataclass(frozen=True)
class Cost:
    """Parameters of one placement as a function of its size; a method is the only owner of these numbers."""

    nominal: Line
    stored: Line

    def line(self, kind: CountKind) -> Line:
        """The line of `kind`.

        Raises:
            BudgetError: `kind` is "trained", which depends on the whole architecture and the head.
        """
        if kind not in SUMMED:
            raise BudgetError("The count 'trained' depends on the head; a budget is on 'nominal' or 'stored'.")
        return self.nominal if kind == "nominal" else self.stored


@dataclass(frozen=True)
class Counts:
    """The three parameter counts of an architecture on one backbone, and the backbone's own size."""

    nominal: int
    stored: int
    trained: int
    backbone: int

    def of(self, kind: CountKind) -> int:
        """The count of `kind`."""
        return {"nominal": self.nominal, "stored": self.stored, "trained": self.trained}[kind]

    def as_dict(self) -> dict[str, int]:
        """A JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True, order=True)
class Placement:
    """One PEFT module: `method` at `site` with `size` units (rank, bottleneck width or prefix length).

    Args:
        site: the key of a site of the backbone, ``stack.layer.role`` with 0-based layers, such as
            ``encoder.3.ffn``; a site outside the layers has no number, such as ``decoder.final_norm``.
        method: the name of a method, such as ``serial``.
        size: 1 to `MOST_SIZE`. Absence is expressed by leaving the placement out.
        scale: what the method's own scale is multiplied by (that of LoRA is alpha / r, so 2 there is alpha = 2 r). It
            stands with the placement, not with the recipe, because the trained model computes with it.

    Raises:
        ArchitectureError: the size is none of these (True and 2.0 are none), a name is empty or no text, or the scale
            is no finite number above 0.
    """

    site: str
    method: str
    size: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        wrong = [name for name in (self.site, self.method) if not _is_name(name)]
        if wrong:
            raise ArchitectureError(
                f"Sites and methods have names of 1 to {_MOST_LETTERS} letters, but got {wrong[0]!r:.99}."
            )
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= MOST_SIZE:
            raise ArchitectureError(
                f"A size must be a whole number of at least 1 and at most {MOST_SIZE:,}, but got {self.size!r:.99} for "
                f"{self.method}@{self.site}."
            )
        if not is_factor(self.scale):
            raise ArchitectureError(
                f"A scale must be a finite number above 0, but got {self.scale!r:.99} for {self.method}@{self.site}."
            )
        object.__setattr__(self, "scale", float(self.scale))  # 2 and 2.0 are written alike

    def __str__(self) -> str:
        return f"{self.method}@{self.site}:{self.size}{_times(self.scale)}"

    def as_row(self) -> list[Any]:
        """A JSON-ready ``[method, site, size]``, with the scale at the end where it is not the method's own."""
        # A scale of 1 is left out: rows of before there were scales are the same bytes and so have the same
        # fingerprint.
        return [self.method, self.site, self.size, *([] if self.scale == 1 else [self.scale])]


def is_factor(value: object) -> bool:
    """Whether `value` is a finite number above 0; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


_PLACE = attrgetter("site", "method")


def _placements(rows: Sequence[Any]) -> tuple[Placement, ...]:
    try:
        # Trials of one study share few placements, so that each is checked once.
        return tuple([_known_placement(site, method, size) for method, site, size in rows])
    except (TypeError, ValueError):  # a scale, or something wrong, which is told row by row
        return tuple(map(_placement, rows))


def _placement(row: Any) -> Placement:
    if not isinstance(row, (list, tuple)) or not 3 <= len(row) <= 4:
        raise ArchitectureError(
            f"An architecture is {{'placements': [[method, site, size], ...]}}, perhaps with a scale behind the size, "
            f"but got {row!r:.99} as one."
        )
    method, site, *rest = row
    try:
        return _known_placement(site, method, *rest)
    except TypeError:  # a list in place of a name, of which there can be no memory
        return Placement(site, method, *rest)


@lru_cache(maxsize=1 << 14, typed=True)  # 1 and True must not be taken for equal
def _known_placement(site: str, method: str, size: int, scale: float = 1.0) -> Placement:
    return Placement(site, method, size, scale)


def _times(scale: float) -> str:
    """What is said of a scale: nothing of the method's own."""
    return "" if scale == 1 else f"×{scale:.3g}"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _MOST_LETTERS and name.isprintable()


@dataclass(frozen=True)
class Architecture:
    """A canonical set of placements: sorted, without repeats, hashable, equal when the models are equal.

    Raises:
        ArchitectureError: one method is placed twice at one site.
    """

    placements: tuple[Placement, ...] = ()

    def __post_init__(self) -> None:
        # Sorted, so that the order in which somebody names placements makes no second architecture with a fingerprint
        # of its own.
        # By the place alone, which may stand once: a study of thousands of trials sorts each when it is read.
        ordered = tuple(sorted(self.placements, key=_PLACE))
        places = list(map(_PLACE, ordered))
        if len(set(places)) < len(places):
            twice = [f"{method}@{site}" for (site, method), n in Counter(places).items() if n > 1]
            raise ArchitectureError(f"A method may stand once at a site, but these stand twice: {_listed(twice)}.")
        object.__setattr__(self, "placements", ordered)

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.placements)

    def __len__(self) -> int:
        return len(self.placements)

    @property
    def is_empty(self) -> bool:
        """True when nothing but the task head would train."""
        return not self.placements

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods used, sorted."""
        return tuple(sorted({item.method for item in self.placements}))

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify the architecture, stable across processes and machines."""
        # Through JSON and not through `hash`, which is seeded anew in every process. Stored studies compare these
        # digits, so this text must never change.
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def size(self, method: str, site: str) -> int:
        """The size of `method` at `site`; 0 when absent."""
        return next((p.size for p in self.placements if p.method == method and p.site == site), 0)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {"placements": [placement.as_row() for placement in self.placements]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """The architecture written by `as_dict`.

        Raises:
            ArchitectureError: the mapping does not have that form.
        """
        given: Any = data.get("placements") if isinstance(data, Mapping) else None
        return cls(_placements(given if isinstance(given, (list, tuple)) else [given]))

    def save(self, path: str | Path) -> None:
        """Write the architecture as JSON.

        Raises:
            SettingsError: a file that holds no architecture stands there.
            WriteError: the file cannot be written.
        """
        check_file("An architecture", Path(path), ARCHITECTURE, overwrite=True)
        with write_whole(path) as part:
            part.write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture written by `save`, or any JSON object that holds one under ``architecture``.

        Raises:
            ArchitectureError: the file is missing or is not such JSON.
        """
        data = read_json(path, "The architecture file", ArchitectureError)
        return cls.from_dict(data.get("architecture", data) if isinstance(data, dict) else {})

    def __str__(self) -> str:
        return " ".join(describe(self)) or "head only"


def describe(architecture: Architecture) -> list[str]:
    """One phrase a method and size, layers counted from 1 as in the papers: ``serial=12@ffn[3,4]``, ``lora=8@q[1–30]``.

    A scale that is not the method's own stands behind it: ``lora=8@q[1]×2``.
    """
    groups: dict[tuple[str, str, int, float], list[int]] = {}
    for item in architecture:
        parts = item.site.split(".")
        # Most models have an encoder alone, whose name would stand in every phrase and tell nothing.
        where = ".".join([*([] if parts[0] == "encoder" else parts[:1]), parts[-1]])
        layer = [int(parts[1])] if len(parts) == 3 and parts[1].isdecimal() else []
        groups.setdefault((item.method, where, item.size, item.scale), []).extend(layer)
    phrases = []
    for (method, where, size, scale), layers in groups.items():
        numbers = layers_told(layers)
        phrases.append(f"{method}={size}@{where}" + (f"[{numbers}]" if numbers else "") + _times(scale))
    return sorted(phrases)


def reasons_told(wrong: Iterable[tuple[Placement, str]]) -> list[str]:
    """One phrase a reason, with all placements that it holds for: ``lora=4@ffn[1–12] stands at no linear map``."""
    held: dict[str, list[Placement]] = {}
    for item, reason in wrong:
        held.setdefault(reason, []).append(item)
    return [f"{' '.join(describe(Architecture(tuple(items))))} {reason}" for reason, items in held.items()]


def layers_told(layers: Iterable[int]) -> str:
    """Layers as people count them, from 1, three or more in a row as a range: ``3,4,8–10`` for 2, 3, 7, 8 and 9."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    # Two in a row are no shorter as a range, and a reader need not think of what lies between.
    parts = [[str(n + 1) for n in run] if len(run) < 3 else [f"{run[0] + 1}–{run[-1] + 1}"] for run in runs]
    return ",".join(text for part in parts for text in part)


def _listed(names: list[str]) -> str:
    """The first names, and how many there are besides."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


_AMOUNT = re.compile(r"^\s*([0-9.eE+-]+)\s*(%|‱|%%)?\s*$")


@dataclass(frozen=True)
class ParameterBudget:
    """A hard limit on the parameters of an architecture, known before anything is trained.

    Args:
        most: the largest count allowed, inclusive.
        least: the smallest count allowed, inclusive.
        count: which count is limited: "nominal" or "stored".
    """

    most: int
    least: int = 0
    count: CountKind = "nominal"

    def __post_init__(self) -> None:
        if self.count not in SUMMED:
            raise BudgetError(f"A budget is on 'nominal' or 'stored', but got {self.count!r}.")
        if not 0 <= self.least <= self.most or self.most < 1:
            raise BudgetError(f"A budget needs 0 <= least <= most and most >= 1, but got {self.least}..{self.most}.")

    def allows(self, parameters: int) -> bool:
        """Whether a count satisfies the budget."""
        return self.least <= parameters <= self.most

    def narrowed(self, low: int, high: int, kind: CountKind) -> tuple[int, int]:
        """What of a range of counts of `kind` the budget leaves."""
        if self.count == kind:
            return max(low, self.least), min(high, self.most)
        # What is stored is never less than what is nominal, so that its limit holds for both.
        return low, min(high, self.most) if kind == "nominal" else high

    @classmethod
    def parse(cls, text: str | float, backbone: int, count: CountKind = "nominal") -> ParameterBudget:
        """Read ``"0.5%"``, ``"1.39‱"`` (per ten thousand), ``"837120"``, or a range ``"0.1%-0.5%"``.

        Args:
            text: the budget as a person writes it; a bare number is a count of parameters. In a range, the unit of the
                upper end is that of a lower end without one.
            backbone: parameters of the backbone, the denominator of shares.
            count: which count is limited.

        Raises:
            BudgetError: the text is not of these forms.
        """
        # A hyphen between digits is a range, and one behind an "e" belongs to a number such as 1e-3.
        low, _, high = re.sub(r"(?<=[0-9%‱])\s*(?:\.\.|-)\s*(?=[0-9.])", " to ", str(text)).partition(" to ")
        unit = re.search(r"[%‱]+\s*$", high)
        # "0.1-0.5%" means two shares: a lower end of a tenth of a parameter would be no limit at all.
        if unit and not re.search(r"[%‱]\s*$", low):
            low += unit.group()
        least, most = (_amount(low, backbone, text) if high else 0), _amount(high or low, backbone, text)
        if not least <= most or most < 1:
            raise BudgetError(
                f"The budget {str(text)!r} means {least:,} to {most:,} of the backbone's {backbone:,} parameters, "
                f"but a budget needs least <= most and most >= 1."
            )
        return cls(most=most, least=least, count=count)

    def __str__(self) -> str:
        low = f"{self.least:,} to " if self.least else "at most "
        return f"{low}{self.most:,} {self.count} parameters"


def _amount(text: str, backbone: int, whole: str | float) -> int:
    match = _AMOUNT.match(text)
    try:
        number = float(match.group(1)) if match else None
    except ValueError:
        number = None
    if match is None or number is None or not 0 <= number < float("inf"):
        raise BudgetError(
            f"A budget is a share ('0.5%'), per ten thousand ('1.39‱'), a count ('837120') or a range "
            f"('0.1%-0.5%'), but got {whole!r}."
        )
    scale = {"%": backbone / 100, "‱": backbone / 10_000, "%%": backbone / 10_000}.get(match.group(2), 1.0)
    # A share is not exact in floating point, and what is meant as a whole number must not fall below it.
    return int(number * scale + 1e-9)


def total(counts: Iterable[tuple[Cost, int]], kind: CountKind) -> int:
    """Sum of the counts of `kind` over pairs of a placement's cost and its size."""
    return sum(cost.line(kind).at(size) for cost, size in counts)
