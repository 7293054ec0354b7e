from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.architecture import Counts
from autopeft.errors import DataError
from autopeft.summary import RetrainRun, failure_rows, front_rows, search_seconds, summarise_retraining, timing
from sample_trials import failed, measured, running

_COUNTS = Counts(1000, 1010, 1510, 100_000)


def _runs(*values: float, name: str = "a", split: str = "test") -> list[RetrainRun]:
    return [RetrainRun(name, seed, value, _COUNTS, split, "accuracy", 10.0) for seed, value in enumerate(values)]


def test_front_rows_carry_three_counts_split_seed_and_times() -> None:
    trials = [measured(0, 2000, 0.6), measured(1, 1000, 0.5), measured(2, 3000, 0.55), failed(3), running(4)]
    first, second = front_rows(trials)
    assert (first.number, second.number) == (1, 0)
    assert (second.percent, second.nominal, second.stored, second.trained) == (2.0, 2000, 2010, 2510)
    assert (second.metric, second.value, second.split, second.seed) == ("accuracy", 0.6, "validation", 7)
    assert (second.seconds, second.latency, second.peak_memory) == (100.0, 0.02, 2**20)
    told = second.as_dict()
    assert told["architecture"] == {"placements": [["serial", "encoder.0.ffn", 1]]}
    assert told["fingerprint"] == trials[0].architecture.fingerprint
    assert front_rows([failed(0)]) == ()


def test_summary_is_mean_sample_deviation_median_and_n() -> None:
    # mean 3, squared deviations 4 + 1 + 0 + 0 + 9 = 14 over n - 1 = 4; median 3
    (summary,) = summarise_retraining(_runs(1.0, 2.0, 3.0, 3.0, 6.0))
    assert summary.mean == 3.0
    assert summary.std == pytest.approx(math.sqrt(14 / 4))
    assert (summary.median, summary.n, summary.seeds) == (3.0, 5, (0, 1, 2, 3, 4))
    assert (summary.seconds, summary.point.percent, summary.point.seeds) == (10.0, 1.0, 5)
    assert summary.as_dict()["percent"] == 1.0


def test_a_single_seed_has_no_deviation() -> None:
    (summary,) = summarise_retraining(_runs(0.7))
    assert summary.std is None
    assert summary.point.std is None


def test_splits_and_names_are_never_mixed() -> None:
    cheap = Counts(10, 10, 510, 100_000)
    runs = [*_runs(0.7, 0.8), *_runs(0.9, split="dev"), RetrainRun("b", 0, 0.5, cheap, "test", "accuracy")]
    summaries = summarise_retraining(runs)
    assert [(s.name, s.split, s.n) for s in summaries] == [("b", "test", 1), ("a", "dev", 1), ("a", "test", 2)]
    assert summarise_retraining([]) == ()


def test_every_mistake_is_listed() -> None:
    runs = [
        RetrainRun("a", 0, math.nan, _COUNTS, "test"),
        RetrainRun("a", 0, 0.5, Counts(2000, 2010, 2510, 100_000), "test"),
        RetrainRun("b", 0, 0.5, _COUNTS, ""),
    ]
    with pytest.raises(DataError) as caught:
        summarise_retraining(runs)
    for part in ("seed 0 has the value nan", "seeds twice: 0", "(nominal: 1000, 2000)", "'b' names no split"):
        assert part in str(caught.value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.randoms())
def test_the_order_of_runs_does_not_matter(values: list[float], random: object) -> None:
    runs = _runs(*values)
    shuffled = list(runs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summarise_retraining(shuffled) == summarise_retraining(runs)
    (summary,) = summarise_retraining(runs)
    assert min(values) - 1e-12 <= summary.mean <= max(values) + 1e-12


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
