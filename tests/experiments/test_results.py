"""The file of JSON lines that holds an experiment's cells."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from autopeft.errors import SettingsError, WriteError
from autopeft.experiments._results import FILE, Results
from autopeft.writing import SUMMARY, check_folder


def test_a_cell_is_a_line_and_of_two_lines_the_later_counts(tmp_path: Path) -> None:
    results = Results(tmp_path / "two")
    assert results.read() == {}
    results.append("b", {"z": 0.1 + 0.2, "a": ["ä", None]})
    results.append("a", {"x": 1})
    results.append("b", {"x": 2})
    lines = results.path.read_text().splitlines()
    assert lines[0] == '{"cell": "b", "a": ["\\u00e4", null], "z": 0.30000000000000004}'
    assert len(lines) == 3
    assert results.read() == {"b": {"x": 2}, "a": {"x": 1}}


def test_folders_of_one_file_a_cell_are_read_and_added_to(tmp_path: Path) -> None:
    (tmp_path / "old-seed0.json").write_text('{"x": 1}')
    (tmp_path / "new-seed0.json").write_text('{"x": 2}')
    results = Results(tmp_path)
    results.append("new-seed0", {"x": 3})
    assert results.read() == {"old-seed0": {"x": 1}, "new-seed0": {"x": 3}}
    (tmp_path / "old-seed0.json").write_text("[1]")
    with pytest.raises(SettingsError, match=r"old-seed0\.json' must hold an object, but holds list"):
        results.read()


def test_half_a_line_is_no_cell_and_the_next_one_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = Results(tmp_path)
    results.append("one", {"x": 1})
    whole = results.path.read_bytes()
    for length in (1, 9, len(whole) - 1):  # killed at any byte of the second line
        results.path.write_bytes(whole + whole[:length])
        with caplog.at_level(logging.WARNING):
            assert results.read() == {"one": {"x": 1}}
        assert "was not finished" in caplog.text
        results.append("two", {"x": 2})
        assert results.read() == {"one": {"x": 1}, "two": {"x": 2}}
        assert results.path.read_bytes().startswith(whole + b'{"cell": "two"')


@pytest.mark.parametrize("line", ["[1]", '{"x": 1}', '{"cell": 3}', "{", "\x00", '{"cell": "a", "x": NaN}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(f'{{"cell": "a"}}\n{line}\n')
    with pytest.raises(SettingsError, match=r"Line 2 of the results '.*cells\.jsonl'"):
        Results(tmp_path).read()


def test_a_line_that_cannot_be_finished_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path)
    results.append("one", {"x": 1})
    before = results.path.read_bytes()

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(WriteError, match="No space left on device"):
        results.append("two", {"x": 2})
    assert results.path.read_bytes() == before
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        Results(blocked).append("one", {})


def _append_many(folder: str, who: int) -> None:
    for number in range(20):
        Results(Path(folder)).append(f"{who}-{number}", {"text": "x" * 5000})


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    # Forked processes would inherit the threads of what other tests have imported, at which JAX warns.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(str(tmp_path), who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Results(tmp_path).read()) == 60


def test_a_folder_with_lines_is_known_as_results(tmp_path: Path) -> None:
    Results(tmp_path).append("one", {"x": 1})
    check_folder("--results", tmp_path, SUMMARY)
    (tmp_path / FILE).write_text(json.dumps({"other": 1}))
    with pytest.raises(SettingsError, match="--results takes a new or empty folder"):
        check_folder("--results", tmp_path, SUMMARY)
