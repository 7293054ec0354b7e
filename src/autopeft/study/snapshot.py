"""A study as its file held it at one moment, read with the standard library alone.

To import Optuna and SQLAlchemy, and to open a file with them, takes longer than to read thousands of trials. So what
only shows a study reads a SQLite file itself. Whatever is not exactly as expected is left to the ordinary way
(`autopeft.study.study`), which reads it or says what is wrong with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autopeft.reading import followed
from autopeft.study.climbs import trials_of
from autopeft.study.facts import FAILED_PROPOSALS, fact_in, reopened_in
from autopeft.study.identity import KEY, Identified, Identity
from autopeft.study.location import check_is_local, mounts
from autopeft.study.read_only import for_a_look
from autopeft.study.record import Row, read_facts
from autopeft.trial import Trial

_SCHEMA = [(12,)]  # of Optuna's tables, since its version 3.0; another one may mean other things by the same names
_EPOCH = datetime(1970, 1, 1)

_HEAD = [("v3.2.0.a",)]  # the last change of them within that version

# SQLite puts the attributes of a trial together, which takes a fraction of handing over each.
_ROWS = """
    SELECT trial_id, number, state, datetime_start, datetime_complete, (
        SELECT group_concat(json_quote(key) || ': ' || value_json, ', ')
        FROM trial_user_attributes AS facts WHERE facts.trial_id = trials.trial_id
    ) FROM trials WHERE study_id = ? ORDER BY number
"""


@dataclass(frozen=True)
class _StoredRow:
    """A row of the storage; its attributes are the text of one JSON object."""

    key: int
    number: int
    state: str
    started: float | None
    ended: float | None
    text: str

    def read(self, with_history: bool) -> Row:
        facts = read_facts(self.text, with_history)
        return Row(self.key, self.number, self.state, self.started, self.ended, facts)


class Snapshot(Identified):
    """A study that is read: what `autopeft.study.study.Study` has of these names, as it was when the file was read.

    Args:
        attributes: of the study.
        rows: by number.
    """

    def __init__(
        self, location: str, identity: Identity, attributes: Mapping[str, Any], rows: list[_StoredRow]
    ) -> None:
        self.location = location
        self._identity, self._attributes, self._rows = identity, attributes, rows

    def fact(self, key: str, default: Any = None) -> Any:
        """A fact that the study has noted; `default` when there is none."""
        return fact_in(self._attributes, key, default)

    def failed_proposals(self) -> list[dict[str, Any]]:
        """What samplers failed at, oldest first."""
        return list(self.fact(FAILED_PROPOSALS, []))

    def trials(self, *, with_history: bool = True) -> tuple[Trial, ...]:
        """Every trial in order of number, which may have gaps; learning curves are most of it."""
        rows = (row.read(with_history) for row in self._rows)
        return trials_of(rows, reopened_in(self._attributes), with_history=with_history)


def snapshot_of(path: Path, name: str | None = None) -> Snapshot | None:
    """The study called `name`, or the only one, in the SQLite file at `path`.

    None where that is to be done the ordinary way: there is no such file, or study, or it was written by other versions
    than this one knows, or the file is damaged.
    """
    try:
        # Through a link to a network's disk as little as directly.
        check_is_local(followed(path), mounts())
        with closing(for_a_look(path)) as way, closing(way.connect()) as connection:
            connection.execute("BEGIN")  # what is read below is of one moment
            return _read(connection, str(path), name)
    except (OSError, sqlite3.Error, ValueError, KeyError, TypeError):
        # Errors of this package are among them: the ordinary way raises them again.
        return None


def _read(connection: sqlite3.Connection, location: str, name: str | None) -> Snapshot | None:
    known = connection.execute("SELECT schema_version FROM version_info").fetchall()
    head = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    keys = {called: key for key, called in connection.execute("SELECT study_id, study_name FROM studies")}
    if known != _SCHEMA or head != _HEAD or (name not in keys if name is not None else len(keys) != 1):
        return None
    chosen = next(iter(keys)) if name is None else name
    query = "SELECT key, value_json FROM study_user_attributes WHERE study_id = ?"
    attributes = {key: json.loads(text) for key, text in connection.execute(query, (keys[chosen],))}
    identity = Identity.from_dict(attributes[KEY], chosen)
    return Snapshot(location, identity, attributes, _rows(connection, keys[chosen]))


def _rows(connection: sqlite3.Connection, study: int) -> list[_StoredRow]:
    found = connection.execute(_ROWS, (study,))
    return [
        _StoredRow(key, number, state, _seconds(started), _seconds(ended), f"{{{pairs or ''}}}")
        for key, number, state, started, ended, pairs in found
    ]


def _seconds(stored: str | None) -> float | None:
    """Optuna keeps times as UTC without saying so."""
    return None if stored is None else (datetime.fromisoformat(stored) - _EPOCH).total_seconds()
