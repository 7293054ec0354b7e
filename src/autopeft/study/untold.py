"""Measurements that the database has not taken yet: small files in the study's folder, told by whoever comes next.

A training may have taken hours. What it gave is written down before the database is asked to take it, and the file goes
when it has; so it outlives a database that is away for long, a disk that is full there, and the worker itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import WriteError
from autopeft.objective import Measurement
from autopeft.study.lease import Lease
from autopeft.study.record import to_json
from autopeft.writing import write_whole

_logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Untold:
    """A measurement that waits to be told.

    Args:
        study: the name of the study.
        number: of the trial.
        lease: under which it was claimed; its token tells the trial from another of the same number elsewhere.
        measurement: what the training gave.
    """

    study: str
    number: int
    lease: Lease
    measurement: Measurement

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {"format": _FORMAT, **asdict(self), "measurement": self.measurement.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Untold:
        """What `as_dict` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        if data["format"] != _FORMAT:
            raise ValueError(f"the format is {data['format']!r}, not {_FORMAT}")
        measurement = Measurement.from_dict(data["measurement"])
        return cls(str(data["study"]), int(data["number"]), Lease.from_dict(data["lease"]), measurement)


class Shelf:
    """The folder in which measurements wait; it is made when the first one has to.

    Args:
        folder: None keeps nothing: a study in a database whose caller named no folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def keep(self, item: Untold) -> Path | None:
        """Write it down; returns where, or None where that was not possible, which is logged."""
        path = self._path(item)
        if path is None:
            return None
        try:
            with write_whole(path) as part:
                part.write_text(json.dumps(to_json(item.as_dict())), encoding="utf-8")
        except WriteError as error:
            _logger.warning(
                "The measurement of trial %d is not kept in a file until it is stored: %s", item.number, error
            )
            return None
        return path

    def drop(self, item: Untold) -> None:
        """It has been told; two may notice that."""
        path = self._path(item)
        if path is not None:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # whoever finds it will see that it was told
                _logger.info("%s was told, but cannot be removed: %s", path, error)

    def waiting(self, study: str) -> list[Untold]:
        """What waits to be told to the study of this name, by number; files that are something else are passed over."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.glob("trial-*.json")):
            try:
                found.append(Untold.from_dict(json.loads(path.read_text(encoding="utf-8"))))
            # Another worker has told it between the listing and the reading.
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                _logger.warning("%s holds no measurement that can be read: %s", path, error)
        return sorted((item for item in found if item.study == study), key=lambda item: item.number)

    def _path(self, item: Untold) -> Path | None:
        # In the name, so that a folder that serves two databases keeps both trials of one number.
        token = item.lease.token or "old"
        return None if self._folder is None else self._folder / f"trial-{item.number}-{token}.json"
