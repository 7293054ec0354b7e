from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from autopeft.errors import DataError
from autopeft.reports.rows import (
    RetrainSummary,
    failure_rows,
    front_rows,
    retrained_in,
    retraining_file,
    search_seconds,
    timing,
)
from autopeft.training.retraining import write_cell
from sample_trials import failed, measured, retrained, running


def test_front_rows_carry_three_counts_split_seed_and_times() -> None:
    trials = [measured(0, 2000, 0.6), measured(1, 1000, 0.5), measured(2, 3000, 0.55), failed(3), running(4)]
    first, second = front_rows(trials)
    assert (first.number, second.number) == (1, 0)
    assert (second.cost, second.nominal, second.stored, second.trained) == (2.0, 2000, 2010, 2510)
    assert (second.metric, second.value, second.split, second.seed) == ("accuracy", 0.6, "validation", 7)
    assert (second.seconds, second.latency, second.peak_memory) == (100.0, 0.02, 2**20)
    told = second.as_dict()
    assert told["architecture"] == {"placements": [["serial", "encoder.0.ffn", 1]]}
    assert told["fingerprint"] == trials[0].architecture.fingerprint
    assert front_rows([failed(0)]) == ()


def test_a_retraining_is_read_as_it_was_written() -> None:
    # mean 3, squared deviations 4 + 1 + 0 + 0 + 9 = 14 over n - 1 = 4; median 3
    summary = RetrainSummary.from_dict("b", retrained(1.0, 2.0, 3.0, 3.0, 6.0))
    assert (summary.name, summary.metric, summary.split, summary.is_baseline) == ("b", "accuracy", "test", False)
    assert summary.mean == 3.0
    assert summary.std == pytest.approx(math.sqrt(14 / 4))
    assert (summary.median, summary.n, summary.seeds) == (3.0, 5, (0, 1, 2, 3, 4))
    assert (summary.seconds, summary.point().cost, summary.point().seeds) == (10.0, 1.0, 5)
    assert summary.as_dict()["percent"] == 1.0


def test_a_single_seed_has_no_deviation() -> None:
    summary = RetrainSummary.from_dict("a", retrained(0.7))
    assert summary.std is None
    assert summary.point().std is None


def test_retrainings_of_a_study_are_kept_apart_and_read_by_increasing_cost(tmp_path: Path) -> None:
    assert retrained_in(tmp_path) == ()
    for name, nominal in (("trial-7", 1000), ("trial-7", 1000), ("lora", 10)):
        told = {**retrained(0.7, 0.8, nominal=nominal), "is_baseline": name == "lora"}
        write_cell(retraining_file(tmp_path, name), told)
    found = retrained_in(tmp_path)
    assert [(one.name, one.is_baseline) for one in found] == [("lora", True), ("trial-7", False), ("trial-7-2", False)]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"summary": 1}'])
def test_another_file_among_the_retrainings_is_named(tmp_path: Path, text: str) -> None:
    path = retraining_file(tmp_path, "x")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json' (is not what `autopeft train` writes|cannot be read)"):
        retrained_in(tmp_path)


def test_failures_are_counted_by_kind_with_the_last_message() -> None:
    rows = failure_rows([failed(0), failed(1, "nan", "loss"), measured(2, 1, 0.5), failed(3, "oom", "again")])
    assert [(row.kind, row.count, row.numbers, row.message) for row in rows] == [
        ("oom", 2, (0, 3), "again"),
        ("nan", 1, (1,), "loss"),
    ]


def test_timing_adds_up() -> None:
    # measured trials take 100 and 102 s, the failed one 30 s; started at 0, 1000, 2000, the last ends at 2200
    spent = timing([measured(0, 1, 0.5), failed(1), measured(2, 1, 0.5), running(3)])
    assert (spent.wall, spent.measuring, spent.failing, spent.proposing, spent.per_trial) == (2200, 202, 30, 1.5, 101)
    assert timing([]).wall == timing([running(0)]).wall == 0


def test_a_search_that_reads_what_was_measured_needs_all_its_trials() -> None:
    """Proposals 3 times 0.5, measured trials 100 and 102 s, the failed one 30 s."""
    trials = [measured(0, 1, 0.5), failed(1), measured(2, 2, 0.6)]
    assert search_seconds(trials) == search_seconds(trials, 2) == 1.5 + 202 + 30
    assert [row.search_seconds for row in front_rows(trials)] == [233.5, 233.5]


def test_an_answer_to_a_budget_needs_its_proposal_alone_and_that_of_the_trial_it_repeats() -> None:
    lost = replace(failed(1, "preempted"), proposal_seconds=40.0)
    again = replace(measured(2, 2, 0.6), proposal_seconds=1.0, retry_of=1)
    trials = [replace(measured(0, 1, 0.5), proposal_seconds=7.0), lost, again]
    assert search_seconds(trials, is_answering=True) == 48
    assert search_seconds(trials, 0, is_answering=True) == 7
    assert [row.search_seconds for row in front_rows(trials, is_answering=True)] == [7, 41]
    assert front_rows(trials, is_answering=True)[1].proposal_seconds == 1
