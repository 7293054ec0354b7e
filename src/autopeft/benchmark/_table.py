"""The trainings that were written down: which candidate, from which seed, and what it answered."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from autopeft.candidate import Candidate
from autopeft.errors import DataError

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Run:
    """One training of a candidate.

    Args:
        candidate: what was trained.
        seed: of the training.
        origin: how the candidate came into the table.
        nominal: its nominal parameters.
        value: the share of right answers at the end, on all examples that were answered.
        n: how many these are.
        right: by share of the steps (1 is the end), which examples were answered rightly, in the table's order; empty
            where only `value` was kept.
    """

    candidate: Candidate
    seed: int
    origin: str
    nominal: int
    value: float
    n: int
    right: Mapping[float, Bits]

    @classmethod
    def read(cls, line: Mapping[str, Any], shares: tuple[float, ...], sizes: tuple[int, ...]) -> Self:
        """The run of a line of the table; answers at `shares` are of the first `sizes` examples."""
        candidate = Candidate.from_dict(line["candidate"])
        packed = line.get("answers") or []
        right = {share: unpacked(text, n) for share, text, n in zip(shares, packed, sizes, strict=False)}
        value = float(right[1.0].mean()) if right else float(line["value"])
        n = len(right[1.0]) if right else int(line["n"])
        return cls(candidate, int(line["seed"]), line["origin"], int(line["nominal"]), value, n, right)


def unpacked(text: str, n: int) -> Bits:
    """The first `n` bits of base 64."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:n].astype(np.bool_)


@dataclass(frozen=True)
class Table:
    """All runs of one task on one backbone by one recipe.

    Args:
        task, model: names.
        n_backbone: parameters of the backbone.
        constant: the share of right answers of the best constant answer.
        rate: the learning rate of the recipe, which changes of a candidate refer to.
        n_searched: of the answered examples, how many a search sees; the first ones are those that the pay-off uses.
        runs: in the order in which they were trained.
    """

    task: str
    model: str
    n_backbone: int
    constant: float
    rate: float
    n_searched: int
    runs: tuple[Run, ...]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a table, compressed or not.

        Raises:
            DataError: there is no such file, or it is no table.
        """
        path = Path(path)
        try:
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
            head, *lines = [json.loads(line) for line in text.splitlines()]
            shares, sizes = tuple(head["shares"]), tuple(head["sizes"])
            # A training that failed has a line, so that it is not tried again, but nothing to say.
            runs = tuple(Run.read(line, shares, sizes) for line in lines if line.get("answers") or "value" in line)
            facts = {name: head[name] for name in ("task", "model", "n_backbone", "constant", "rate", "n_searched")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"The table {path} cannot be read: {error}.") from error
        return cls(**facts, runs=runs)

    @cached_property
    def by_candidate(self) -> dict[str, list[Run]]:
        """The runs of each candidate by its fingerprint, by increasing seed."""
        found: dict[str, list[Run]] = {}
        for run in sorted(self.runs, key=lambda one: one.seed):
            found.setdefault(run.candidate.fingerprint, []).append(run)
        return found
