"""Trainings that are kept as files, each under the name of everything that decides its outcome.

What was interrupted goes on where it was, and what two askers both want is trained once. Another recipe, other data or
another model give another name, so that nothing is ever taken for what it is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autopeft.errors import DataError
from autopeft.reading import read_json
from autopeft.training.retraining import write_cell

T = TypeVar("T")


@dataclass(frozen=True)
class KeptRuns:
    """Runs in a folder.

    Args:
        folder: a file a run; None keeps none.
    """

    folder: Path | None

    def once(
        self,
        about: Mapping[str, Any],
        train: Callable[[], T],
        as_dict: Callable[[T], Mapping[str, Any]],
        from_dict: Callable[[Mapping[str, Any]], T],
    ) -> T:
        """What `train` gives, read where the same was trained before; what it raises is not kept.

        Args:
            about: everything that decides the outcome, see `name_of`.
            as_dict, from_dict: between what `train` gives and what JSON can hold.
        """
        if self.folder is None:
            return train()
        path = self.folder / f"{name_of(about)}.json"
        if path.exists():
            try:
                return from_dict(read_json(path, "The run", DataError))
            except (DataError, TypeError, KeyError):
                # Half a file of a full disk, or somebody else's: the run is trained again and the file written anew.
                pass
        found = train()
        write_cell(path, dict(as_dict(found)))
        return found


def name_of(about: Mapping[str, Any]) -> str:
    """The first 24 hexadecimal digits of the SHA-256 of `about` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]
