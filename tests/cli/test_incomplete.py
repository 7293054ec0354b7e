"""A search that ends without a trial says so to people and to scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState as StoredState

from autopeft.session import Session
from autopeft.settings import load
from small_case import Case, call, trials


@pytest.mark.slow
@pytest.mark.parametrize("n_measured", [0, 2])
def test_missing_trials_are_named_with_the_way_out_and_an_exit_code(
    case: Case, tmp_path: Path, n_measured: int
) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml", trials=n_measured + 1), tmp_path / "my run"
    if n_measured:
        assert call("search", asked, "--out", folder, "--trials", n_measured).code == 0
    session = Session.build(load(asked))
    with session.begin(folder) as study:
        trial = study.claim(session.sampler(), n_measured + 1, session.initial)
        assert trial is not None
        study._holder.let_go(trial.number)
        failure = {"kind": "gave_up", "message": "The worker was lost 4 times."}
        study._ledger.end(study._ledger.record(trial.number), {"failure": failure, "lost": True}, StoredState.FAIL)
    found = call("search", asked, "--out", folder)
    assert found.code == 3
    words = " ".join(found.err.split())
    assert f"incomplete: 1 of {n_measured + 1} trials is missing" in words
    assert f"lost again and again: {trial.number}." in words
    assert f"autopeft reopen '{folder}'" in words
    assert call("reopen", folder).code == 0
    assert call("search", asked, "--out", folder).code == 0
    assert sum(trial.is_complete for trial in trials(folder)) == n_measured + 1
