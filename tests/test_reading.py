"""JSON that somebody else made: what is refused, with which words, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import DataError
from autopeft.reading import MOST_DEPTH, parse_json, read_json
from fuzzing import at_once

CASES = {
    "it nests deeper than 100": ["[" * 20_000, "[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000,
                                 "[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2)],
    "names the key 'a' twice": ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'],
    "which is not a finite number": ["NaN", "[-Infinity]", '{"a": 1e999}', "[-1e400]"],
    "a whole number of": ["1" * 41, "[" + "9" * 5000 + "]"],
    "not UTF-8 at byte 1": [b'"\xff"'],
    "half of a surrogate pair": ['"\\ud800"', '{"\\udfff": 1}', '[["a", "\\ud800"]]'],
    "Expecting|delimiter|Extra data": ["", "{", "[1,]", "{} {}", "nonsense"],
}  # fmt: skip


@pytest.mark.parametrize(("words", "raw"), [(words, raw) for words, raws in CASES.items() for raw in raws])
def test_what_nobody_can_mean_is_refused_at_once(words: str, raw: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with at_once():
        with pytest.raises(ValueError, match=words):
            parse_json(raw)
        with pytest.raises(DataError, match=rf"^The thing '.*file\.json' cannot be read: .*({words})"):
            read_json(path, "The thing", DataError)


def test_what_is_meant_is_read() -> None:
    text = '{"a": [1, -2.5e3, true, null, "ä\\ud83d\\ude00"], "b": {"a": 12345678901234567890}}'
    assert parse_json(text) == {"a": [1, -2500.0, True, None, "ä😀"], "b": {"a": 12345678901234567890}}
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    deepest = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json(deepest)
    assert parse_json("[Infinity]", is_finite=False) == [float("inf")]


def test_a_file_that_is_missing_a_folder_or_too_large_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_json(tmp_path / "nowhere.json", "The thing", DataError)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_json(tmp_path, "The thing", DataError)
    path = tmp_path / "large.json"
    path.write_text("[" + " " * 100 + "]")
    assert read_json(path, "The thing", DataError, most_bytes=102) == []
    with pytest.raises(DataError, match="it is larger than 101 bytes"):
        read_json(path, "The thing", DataError, most_bytes=101)
