"""YAML that somebody else wrote: whatever stands in it, it is read, or refused with its place, and at once."""

from __future__ import annotations

import contextlib
import importlib
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from autopeft.errors import SettingsError
from autopeft.yaml_files import MOST_BYTES, MOST_DEPTH, MOST_NODES, parse, read
from fuzzing import N_CASES, at_once
from small_case import call

SEED = 11
"""Of the long run; Hypothesis draws the short one's cases from the name of the test."""

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)

REFUSED = {
    "seed of 5,000 digits": ("seed: " + "9" * 5000, "line 1, column 7: '9999999999999999999999999999999999999999...'"),
    "impossible date": ("data_seed: 2024-13-45", "line 1, column 12: '2024-13-45' is no timestamp"),
    "nesting": ("a: " + "[" * 20_000 + "]" * 20_000, "line 1, column "),
    "nesting without ends": ("- " * 20_000, f"may stand {MOST_DEPTH} deep at the most"),
    "self-reference": ("a: &a\n  b: *a", "line 2, column 6: *a stands inside of &a, which would hold itself"),
    "anchor bomb": (BOMB, f"stands for more than {MOST_NODES:,} values"),
    "many values": ("a: [" + "1, " * MOST_NODES + "1]", f"stands for more than {MOST_NODES:,} values"),
    "keys that stand twice": ("trials: 5\nseed: 1\ntrials: 60", "line 3, column 1: the key 'trials' stands in line 1"),
    "keys that stand twice inside": ("a: {b: 1, c: [], 'b': 2}", "the key 'b' stands in line 1 already"),
    "trials of 10^20": (f"trials: {10**20}", "is larger than any number that is wanted"),
    "sexagesimal giant": ("trials: 1:" + "59:" * 3000 + "1", "is larger than any number that is wanted"),
    "no boolean": ("a: !!bool maybe", "'maybe' is no bool"),
    "no number": ("a: !!int ''", "'' is no int"),
    "no date": ("a: !!timestamp x", "'x' is no timestamp"),
    "an object of Python": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "NUL": ("a: b\0", "holds the character U+0000, which YAML does not allow"),
    "a list as a key": ("{[a]: 1}", "unhashable key"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "half a character": ("a: \ud800", "holds half a character"),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_at_once(text: str, expected: str) -> None:
    with at_once(), pytest.raises(SettingsError) as caught:
        parse(text, "It")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_scanner_without_c_refuses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft import yaml_files

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    try:
        plain = importlib.reload(yaml_files)
        for name, (text, _) in REFUSED.items():
            with at_once(), pytest.raises(SettingsError):
                plain.parse(text, name)
    finally:
        monkeypatch.undo()
        importlib.reload(yaml_files)


def test_what_stands_repeated_is_a_copy_each_time() -> None:
    found = parse("a: &a {k: [1]}\nb: *a\nc: {<<: *a, k: 2}", "It")
    assert found == {"a": {"k": [1]}, "b": {"k": [1]}, "c": {"k": 2}}
    found["a"]["k"].append(2)
    assert found["b"] == {"k": [1]}


def test_the_largest_that_is_allowed_is_read_at_once() -> None:
    text = "a:\n" + "".join(f"  k{i}: x\n" for i in range((MOST_NODES - 3) // 2))
    with at_once():
        assert len(parse(text, "It")["a"]) == (MOST_NODES - 3) // 2
    inner = "x"
    for _ in range(MOST_DEPTH):
        inner = f"[{inner}]"
    assert parse(inner, "It")[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_in_the_encodings_of_yaml(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes("model: Grüße\n".encode(encoding))
    assert read(path) == {"model": "Grüße"}


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(SettingsError, match="must be UTF-8, but line 2 has the bytes 0xe9"):
        read(path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(SettingsError, match="262,144 bytes at the most"):
        read(path)
    for missing in (tmp_path, tmp_path / "none.yaml", "a\0b"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read(missing)


@pytest.mark.parametrize("command", ["check", "search", "train", "experiment"])
def test_every_command_that_reads_settings_ends_with_2(command: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    more = ["--baseline", "lora"] if command == "train" else []
    for text, expected in (REFUSED["seed of 5,000 digits"], REFUSED["anchor bomb"], REFUSED["keys that stand twice"]):
        path.write_text(text)
        found = call(command, path, *more)
        assert found.code == 2
        assert expected.partition(": ")[2] in found.err
        assert "Traceback" not in found.err


def test_a_pair_of_the_command_line_is_bound_as_a_file_is() -> None:
    for text, _ in REFUSED.values():
        value = text.partition(": ")[2].replace("\0", "\x01")
        found = call("check", "--task", "mrpc", "--model", "no-such-model", "--set", f"seed={value}")
        assert found.code == 2
        assert len(found.err) < 600


SCALARS = st.sampled_from(
    [
        "1",
        "1e3",
        "~",
        "yes",
        "2024-02-30",
        "2024-01-01",
        "*a",
        "&a b",
        "!!int x",
        "!!float ''",
        "'",
        '"\\x',
        "<<",
        "0o9",
    ]
)
WORDS = st.text(string.printable + "\0é\ud800\u2028", max_size=8) | SCALARS
MARKS = st.sampled_from(
    ["\n", "\n ", "\n  ", ": ", "- ", "? ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!map ", "|\n", "#"]
)
TEXTS = st.lists(WORDS | MARKS, max_size=40).map("".join)


def _is_read_or_refused(text: str) -> None:
    with at_once(), contextlib.suppress(SettingsError):
        repr(parse(text, "It"))


@given(TEXTS)
@example("a: &a [*a]")
@example("!!timestamp 2001-1-1 1:1:1 +99:99")
def test_any_text_is_read_or_refused(text: str) -> None:
    _is_read_or_refused(text)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_any_of_100_000_texts_is_read_or_refused() -> None:
    seed(SEED)(settings(max_examples=N_CASES, database=None)(given(TEXTS)(_is_read_or_refused)))()
