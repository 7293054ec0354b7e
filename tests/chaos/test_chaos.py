"""Every scene of `scenes.py` on every database: what was asked for is measured, and nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import LONG, SCENES, SHORT, Outcome, Stage, play

import postgres

LENGTH = LONG if os.environ.get("AUTOPEFT_CHAOS") == "long" else SHORT
CASES = [(scene, database) for scene, databases in SCENES for database in databases]

pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=1), pytest.mark.timeout(1800 if LENGTH is LONG else 300)]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if reason := postgres.reason_to_skip():
        pytest.skip(reason)
    with postgres.running() as started:
        yield started


@pytest.fixture
def database(request: pytest.FixtureRequest) -> postgres.Server | None:
    """The server, started where a case needs it."""
    return request.getfixturevalue("server") if request.param == "PostgreSQL" else None


def hits(scene: str, found: Outcome) -> bool:
    """Whether the scene did what its name says: a study that nothing happened to proves nothing."""
    if scene == "kills":
        return found.signals >= LENGTH.kills and found.lost >= LENGTH.in_trial
    return {
        "terminations": found.given_back == 4,
        "stopped": found.lost >= LENGTH.stops,
        "wrong_clocks": found.lost <= 1,  # no clock takes a trial away
    }.get(scene, found.signals > 0)


@pytest.mark.parametrize(
    ("scene", "database"),
    CASES,
    ids=[f"{scene.__name__}-{database}" for scene, database in CASES],
    indirect=["database"],
)
def test_what_was_asked_for_is_measured_once(scene: Stage, database: postgres.Server | None, tmp_path: Path) -> None:
    found = play(scene, LENGTH, database, tmp_path)  # type: ignore[arg-type]
    assert found.is_whole, found
    assert hits(scene.__name__, found), found  # type: ignore[attr-defined]
