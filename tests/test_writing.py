"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.writing import whole


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with whole(path) as part:
            part.write_text(text)
            assert path.exists() == (text == "second")
        assert path.read_text() == text
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        _write_half(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def _write_half(path: Path) -> None:
    with whole(path) as part:
        part.write_text("ne")
        raise OSError("the disk is full")
