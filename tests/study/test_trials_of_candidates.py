"""A study of candidates: what is trained is stored, and the same architecture at another rate is another trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.candidate import Candidate
from autopeft.errors import StudyMismatchError
from autopeft.objective import Measurement
from autopeft.spaces.dials import with_dials
from autopeft.study.study import Study
from formulas import SPACE, Blind, formula, made
from lattice import tiny_space

DIALLED = with_dials(tiny_space(), rate_factors={"all": (1 / 3, 1, 3), "serial": (1, 2)}, scales={"all": (1, 4)})


def test_what_is_trained_is_what_is_stored_and_read_back(tmp_path: Path) -> None:
    seen: list[Candidate] = []

    def watched(candidate: Candidate, seed: int) -> Measurement:
        seen.append(candidate)
        return formula(candidate, seed)

    with made(tmp_path / "s.db", DIALLED) as study:
        study.run(watched, Blind(DIALLED), 40)
    with Study.open(tmp_path / "s.db") as study:  # without its space: the trials say what they are
        trials = study.trials()
    assert [trial.candidate for trial in trials] == seen
    assert [DIALLED.candidate(trial.configuration) for trial in trials] == seen
    assert len(set(seen)) == 40 > len({candidate.architecture for candidate in seen})


def test_a_trial_without_changes_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    with made(tmp_path / "s.db", SPACE) as study:
        study.run(formula, Blind(SPACE), 3)
        (stored, *_) = study._store.backend.get_all_trials(study._key)
        first = study.trials()[0]
    assert "changes" not in stored.user_attrs
    assert stored.user_attrs["architecture"] == first.architecture.as_dict()
    assert stored.user_attrs["fingerprint"] == first.architecture.fingerprint


def test_a_space_with_other_factors_is_another_study(tmp_path: Path) -> None:
    made(tmp_path / "s.db", DIALLED).close()
    with pytest.raises(StudyMismatchError, match=r"the choice rate.all is only there \(\[0.333"):
        made(tmp_path / "s.db", tiny_space())
    other = with_dials(tiny_space(), rate_factors={"all": (1 / 3, 1, 3), "serial": (1, 2)}, scales={"all": (1, 8)})
    with pytest.raises(StudyMismatchError, match=r"the choice scale.all is \[1.0, 4.0\] there, \[1.0, 8.0\] here"):
        made(tmp_path / "s.db", other)
