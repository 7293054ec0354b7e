"""A kind of experiment that somebody else adds: one class, which need not train anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autopeft import kinds
from autopeft.experiments import read, run, summary
from autopeft.experiments._experiment import Origin, Page, Place
from autopeft.experiments._results import Result


@dataclass(frozen=True)
class Word:
    """A cell: a word of the file."""

    name: str


@dataclass(frozen=True)
class Lengths:
    """How long the words of a file are."""

    required: ClassVar[frozenset[str]] = frozenset({"title", "words"})
    optional: ClassVar[frozenset[str]] = frozenset()
    is_derived: ClassVar[bool] = False

    origin: Origin
    words: tuple[str, ...]

    @classmethod
    def read(cls, raw: Mapping[str, Any], origin: Origin) -> Lengths:
        return cls(origin, tuple(raw["words"]))

    def cells(self) -> tuple[Word, ...]:
        return tuple(map(Word, self.words))

    def check(self, cells: Sequence[Word], place: Place) -> None:
        pass

    def run(self, cell: Word, place: Place) -> Result:
        return {"headline": f"{len(cell.name)} letters", "length": len(cell.name)}

    def page(self, found: Mapping[str, Result], place: Place) -> Page:
        return Page([f"* {word}: {one['length']}" for word, one in found.items()])

    @classmethod
    def overview(cls, done: Mapping[str, tuple[Lengths, Mapping[str, Result]]]) -> Sequence[str]:
        return ()


def test_it_is_read_run_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = kinds.members

    def with_mine(*packages: str) -> Mapping[str, Any]:
        return {**real(*packages), "lengths": Lengths} if packages == ("autopeft.experiments",) else real(*packages)

    monkeypatch.setattr(kinds, "members", with_mine)
    path = tmp_path / "lengths.yaml"
    path.write_text("kind: lengths\ntitle: Lengths\nwords: [lora, ia3]\n")
    said: list[str] = []
    run(read(path), tmp_path / "results", tmp_path / "work", said.append)
    page, pictures = summary(read(path), tmp_path / "results")
    assert "* lora: 4\n* ia3: 3" in page
    assert "All 2 cells are done" in page
    assert not pictures
