"""Trials that go on: a training that was paused at a rung and continued is several rows, and one trial to all others.

A row that has ended never changes, which is what makes several workers safe. So a training that goes on from a rung is
a new row, which names the first one. It has a lease, is lost, given back and repeated like any other, and what was
measured at the rung below stays where it was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from autopeft.study.record import Record, Row, as_it_stands, read_trial
from autopeft.trial import Trial


def trials_of(rows: Iterable[Row], again: frozenset[int], *, with_history: bool) -> tuple[Trial, ...]:
    """The trials that `rows` are of, by number, without those that were withdrawn.

    Args:
        rows: of one study, by number.
        again: numbers of failed trials that are to be tried again.
        with_history: see `autopeft.study.record.read_trial`.
    """
    found = (as_it_stands(read_trial(row, with_history=with_history), again) for row in rows)
    return tuple(joined(record for record in found if record is not None and not record.is_withdrawn))


def joined(records: Iterable[Record]) -> list[Trial]:
    """The trials that `records` are of, by number; parts of one training become one trial with the first one's number.

    A part that lost its worker stays by itself, as everything that lost its worker does: its repetition takes its place
    in the training.

    Args:
        records: by number, none that was withdrawn.
    """
    found: dict[int, Trial] = {}
    for record in records:
        part = record.trial
        if part.continues is None or not part.is_taken or part.continues not in found:
            found[part.number] = part
        else:
            found[part.continues] = _gone_on(found[part.continues], part)
    return [found[number] for number in sorted(found)]


def _gone_on(before: Trial, part: Trial) -> Trial:
    """The training `before` with its next `part`, which may still run or have failed: what was reached is kept."""
    return replace(
        before,
        state=part.state,
        measurement=part.measurement,
        so_far=before.so_far if part.latest is None else part.so_far,
        failure=part.failure,
        finished=part.finished,
        rung=part.rung,
    )
