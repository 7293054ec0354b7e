"""Token ids are kept between runs by content: what is read is what would be made, and everything else is made again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from autopeft.training import kept_tokens
from autopeft.training.kept_tokens import VARIABLE, tokens_of

WORDS = [word for word in tiny.WORDS if word.isalpha()] or list(tiny.WORDS)
TEXTS = [" ".join(WORDS[(n + k) % len(WORDS)] for k in range(n % 13)) for n in range(240)]


class Counted:
    """A tokenizer that counts how often it is asked."""

    def __init__(self) -> None:
        self.__dict__["inner"], self.__dict__["asked"] = tiny.tokenizer(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.__dict__["asked"] += 1
        return self.inner(*arguments, **named)


def asked(folder: Path, texts: list[str] = TEXTS, *, most: int = 9, side: str = "right", more: str = "") -> int:
    """How often a tokenizer was asked for these texts, which is 0 where they were kept."""
    tokenizer = Counted()
    if more:
        tokenizer.inner.add_tokens([more])
    tokens_of(tokenizer, texts, None, most=most, side=side, folder=folder)
    return int(tokenizer.asked)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pairs", [None, TEXTS[::-1]])
def test_what_is_read_is_what_the_tokenizer_gives(tmp_path: Path, pairs: list[str] | None, side: str) -> None:
    tokenizer = tiny.tokenizer()
    own = tokenizer.truncation_side
    found = [tokens_of(tokenizer, TEXTS, pairs, most=9, side=side, folder=tmp_path) for _ in range(2)]
    assert len(list(tmp_path.iterdir())) == 1
    assert tokenizer.truncation_side == own
    tokenizer.truncation_side = side
    given = tokenizer(TEXTS, pairs, truncation=True, max_length=9)
    for one in found:
        assert [list(one.ids[row]) for row in range(len(TEXTS))] == given["input_ids"]
        assert (one.types is None) == ("token_type_ids" not in given)
        if one.types is not None:
            assert [list(one.types[row]) for row in range(len(TEXTS))] == given["token_type_ids"]
        assert one.ids.flat.dtype == np.int32
        assert one.ids.offsets.dtype == np.int64


def test_the_second_run_asks_no_tokenizer_and_whatever_decides_on_the_ids_makes_another_file(tmp_path: Path) -> None:
    assert [asked(tmp_path), asked(tmp_path)] == [1, 0]
    others: list[dict[str, Any]] = [
        {"texts": [*TEXTS[:-1], "another"]},
        {"texts": TEXTS[::-1]},
        {"texts": TEXTS[:-1]},
        {"most": 8},
        {"side": "left"},
        {"more": "zzz"},
    ]
    for number, other in enumerate(others, start=2):
        assert asked(tmp_path, **other) == 1, other
        assert len(list(tmp_path.iterdir())) == number
    assert asked(tmp_path) == 0


def test_what_a_tokenizer_was_last_told_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    tokenizer = Counted()
    tokens_of(tokenizer, TEXTS, None, most=9, side="right", folder=tmp_path)
    tokenizer.inner(TEXTS, padding="max_length", truncation=True, max_length=30)
    tokens_of(tokenizer, TEXTS, None, most=9, side="right", folder=tmp_path)
    assert tokenizer.asked == 1


def _flipped(data: bytes) -> bytes:
    return data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]


@pytest.mark.parametrize(
    "damage", [_flipped, lambda data: data[:-100], lambda _: b"", lambda _: b"no tensors", lambda data: data + b"\0"]
)
def test_what_is_damaged_is_told_and_made_again(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert asked(tmp_path) == 1
    assert "damaged and made again" in caplog.text
    assert path.read_bytes() == whole
    assert asked(tmp_path) == 0


def test_tokens_of_other_texts_under_the_name_are_not_believed(tmp_path: Path) -> None:
    """A digest that fits is not enough: rows must be as many as the texts, and as short as is asked for."""
    asked(tmp_path)
    (path,) = tmp_path.iterdir()
    for other in ({"texts": TEXTS[:-1]}, {"most": 30}):
        folder = tmp_path / "other"
        asked(folder, **other)  # type: ignore[arg-type]
        (wrong,) = folder.iterdir()
        wrong.replace(path)
        assert asked(tmp_path) == 1


@pytest.mark.parametrize("said", ["off", "0", "No"])
def test_it_can_be_turned_off(tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert [asked(tmp_path), asked(tmp_path)] == [1, 1]
    assert not list(tmp_path.iterdir())


def test_few_texts_are_not_kept(tmp_path: Path) -> None:
    assert asked(tmp_path, TEXTS[:50]) == 1
    assert not list(tmp_path.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, most in enumerate((5, 6, 7)):
        asked(tmp_path, most=most)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (number, number))
    # Used again, and so the last to go.
    assert asked(tmp_path, most=5) == 0
    # Room for a third of a file more, so that one has to go.
    held = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(kept_tokens, "BOUND", held + held // 9)
    asked(tmp_path, most=8)
    assert [asked(tmp_path, most=5), asked(tmp_path, most=7), asked(tmp_path, most=8)] == [0, 0, 0]
    assert asked(tmp_path, most=6) == 1


def test_tokens_that_are_larger_than_half_of_the_bound_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "BOUND", 1000)
    asked(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert asked(tmp_path / "file") == 1
    assert (tmp_path / "file").read_text() == "in the way"


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    asked(tmp_path / "tokens")
    assert (tmp_path / "tokens").stat().st_mode & 0o077 == 0
