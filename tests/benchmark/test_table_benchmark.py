"""The tabular benchmark: what was trained answers for itself, and of the rest a surrogate speaks."""

from __future__ import annotations

import gzip
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.benchmark import Benchmark, Landscape, Surrogate, Table
from autopeft.benchmark._table import unpacked
from autopeft.candidate import Candidate, Changes
from autopeft.errors import DataError, SettingsError

TABLE = Path(__file__).parents[2] / "benchmarks" / "table" / "sst2.jsonl.gz"


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.load(TABLE)


@pytest.fixture(scope="module")
def bench(table: Table) -> Benchmark:
    return Benchmark(table)


def _new(table: Table) -> Candidate:
    """A candidate that nobody has trained: the first one at another rate."""
    return replace(table.runs[0].candidate, changes=Changes(learning_rate=1.7e-3))


def test_a_run_says_what_its_bits_say(table: Table) -> None:
    run = next(run for run in table.runs if run.right)
    assert run.value == pytest.approx(float(run.right[1.0].mean()))
    assert [len(bits) for bits in run.right.values()] == [400, 1200]
    assert list(unpacked("oA==", 4)) == [True, False, True, False]
    # The examples that the pay-off searches on come first, so that its own trainings have a value here.
    assert any(not run.right and run.n == table.n_searched for run in table.runs)


def test_what_was_trained_answers_by_its_runs_and_a_seed_draws_what_is_seen(bench: Benchmark, table: Table) -> None:
    runs = next(runs for runs in table.by_candidate.values() if len(runs) > 2 and all(run.right for run in runs))
    found = [bench.query(runs[0].candidate, seed=seed) for seed in range(30)]
    assert bench.query(runs[0].candidate, seed=4) == found[4]
    assert {answer.true for answer in found} == {float(np.mean([run.value for run in runs]))}
    values = np.array([answer.value for answer in found])
    # Of 1,200 examples 400 are drawn, so that the spread is somewhat below that of 400 alone.
    assert 0.005 < values.std() < 0.03
    assert abs(values.mean() - found[0].true) < 0.02
    assert all(answer.is_measured for answer in found)


def test_lower_fidelities_are_answered_where_they_were_measured_and_refused_elsewhere(
    bench: Benchmark, table: Table
) -> None:
    run = next(run for run in table.runs if run.right)
    early, end = (bench.query(run.candidate, fidelity) for fidelity in (1 / 3, 1.0))
    assert early.true == end.true
    assert early.value < end.value
    with pytest.raises(SettingsError, match=r"knows nothing of .* at a share of 0\.333 of the steps"):
        bench.query(_new(table), 1 / 3)


@pytest.mark.parametrize(
    ("method", "site"),
    [
        ("serial", "encoder.6.ffn"),
        ("serial", "encoder.-1.ffn"),
        ("serial", "encoder.00.ffn"),
        ("serial", "decoder.0.ffn"),
        ("serial", "encoder.0.nowhere"),
        ("serial", "ffn"),
        ("pony", "encoder.0.ffn"),
        ("lora-rest", "encoder.0.k"),
    ],
)
def test_what_cannot_exist_on_the_table_s_model_is_refused(bench: Benchmark, method: str, site: str) -> None:
    asked = Candidate.of(Architecture((Placement(site, method, 7),)))
    named = repr(site) if method == "serial" else repr(method)
    with pytest.raises(SettingsError, match=f"The table's model has no .*{named}"):
        bench.query(asked)
    with pytest.raises(SettingsError, match=named):
        bench.surrogate.predict([asked])


@pytest.mark.parametrize("seed", [-1, 1.5, "1"])
def test_what_is_no_seed_is_refused(bench: Benchmark, table: Table, seed: Any) -> None:
    with pytest.raises(SettingsError, match=f"`seed` is a whole number of at least 0, but got {seed!r}"):
        bench.query(_new(table), seed=seed)
    with pytest.raises(SettingsError, match=f"`landscape` is a whole number of at least 0, but got {seed!r}"):
        Landscape(bench.surrogate, seed)
    assert bench.query(_new(table), seed=int(np.int64(1))) == bench.query(_new(table), seed=np.int64(1))


def test_of_what_was_not_trained_a_landscape_speaks_and_says_so(bench: Benchmark, table: Table) -> None:
    answer = bench.query(_new(table), seed=1)
    assert not answer.is_measured
    assert table.constant <= answer.true < bench.surrogate.ceiling
    assert bench.query(_new(table), seed=1) == answer
    assert bench.query(_new(table), seed=2).true == answer.true
    assert Benchmark(table, landscape=1).query(_new(table), seed=1).true != answer.true


def test_a_landscape_agrees_with_the_table_and_is_the_same_in_whatever_portions_it_is_asked(table: Table) -> None:
    surrogate = Surrogate(table)
    asked = [replace(run.candidate, changes=Changes(rate_factor=1.4)) for run in table.runs[:12]]
    at_once, in_parts = Landscape(surrogate, 5), Landscape(surrogate, 5)
    values = at_once.values(asked)
    parts = np.concatenate([in_parts.values(asked[:4]), in_parts.values(asked[4:]), in_parts.values(asked[:1])])
    assert parts == pytest.approx(np.append(values, values[0]), abs=1e-6)
    # Where something was trained three times, every truth is near to it.
    known = next(
        runs[0] for runs in table.by_candidate.values() if len(runs) > 2 and np.mean([r.value for r in runs]) > 0.8
    )
    drawn = [Landscape(surrogate, seed).values([known.candidate])[0] for seed in range(20)]
    assert np.std(drawn) < 0.02
    assert np.mean(drawn) == pytest.approx(surrogate.predict([known.candidate])[0], abs=0.02)


def test_the_surrogate_says_how_little_it_knows(table: Table) -> None:
    error = Surrogate(table).error()
    assert error["candidates"] == len(table.by_candidate)
    # As the datasheet says; a surrogate that knew nothing would explain none of it.
    assert 0.3 < error["explained"] < error["explained_of_what_noise_leaves"] < 0.8
    assert error["rank_correlation"] > 0.5


def test_what_the_maker_writes_is_a_table(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_table", TABLE.parent / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    held = tiny.sentiment(1200)
    session = SimpleNamespace(
        evaluator=SimpleNamespace(splits=SimpleNamespace(train=tiny.sentiment(8))),
        task=tiny.SENTIMENT,
        backbone=SimpleNamespace(n_parameters=1000),
        settings=SimpleNamespace(model="minilm"),
    )
    labels = np.array(held.labels)
    answers = np.eye(2)[labels]
    answers[::4] = answers[::4, ::-1]  # every fourth is wrong
    kept = [make.packed(answers[:400], labels), make.packed(answers, labels)]
    about = {"origin": "lora:8", "nominal": 10, "candidate": Candidate(Architecture(())).as_dict()}
    lines = (
        make.head("sst2", session, held),
        {**about, "seed": 3, "answers": kept},
        {**about, "seed": 4, "answers": []},
    )
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = Table.load(path)
    assert (made.task, made.model, made.n_searched) == ("sst2", "minilm", 400)
    # One that failed has no value.
    assert [(run.seed, run.value, run.n) for run in made.runs] == [(3, 0.75, 1200)]
    assert 0.5 <= made.constant < 0.6
    # And a table says what is to be trained anew.
    assert make.given(path)[0] == ("lora:8", Candidate(Architecture(())), 3)
    assert len(make.given(TABLE)) == 173


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Table.load(tmp_path / "none.jsonl.gz")
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(json.dumps({"task": "x"}).encode()))
    with pytest.raises(DataError, match=r"'shares'"):
        Table.load(tmp_path / "empty.jsonl.gz")


def test_an_empty_architecture_has_inputs_too(bench: Benchmark) -> None:
    assert np.isfinite(bench.surrogate.predict([Candidate(Architecture(()))])).all()
