"""How earlier results of this package are recognised where they stand.

Each function is given a path that exists, and may raise OSError, ValueError and what wrong types raise: whatever cannot
be read is none of ours. `autopeft.writing` has the kinds of results that it may write over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.errors import InputError
from autopeft.reading import parse_json, read_json

_LINE = 2**16  # bytes of a first line that are looked at

PRODUCER = "autopeft"
"""What files whose format has a place for it name as the program that made them."""


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; an empty one where it holds another value."""
    found = read_json(path, "The file", InputError)
    return found if isinstance(found, dict) else {}


def _holds(path: Path, *marks: bytes) -> bool:
    content = path.read_bytes()
    return any(mark in content for mark in marks)


def is_saved_model(folder: Path) -> bool:
    """Whether its record is that of `autopeft train --save`."""
    return {"format", "architecture", "backbone", "problem"} <= read_mapping(folder / "architecture.json").keys()


def is_export(folder: Path) -> bool:
    """Whether its weights name this package as their maker."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        # The header says its own length, which a file of somebody else's may say as it likes.
        header = parse_json(file.read(min(int.from_bytes(file.read(8), "little"), 2**24)))
    return bool(header["__metadata__"]["producer"] == PRODUCER)


def is_study(folder: Path) -> bool:
    """Whether it holds a study, or what is left of one that was killed as it began."""
    if (folder / "study.db").is_file():
        with (folder / "study.db").open("rb") as file:
            # An empty file is what a search leaves that was killed as it began.
            return file.read(16) in (b"SQLite format 3\0", b"")
    # Told by its top keys without reading YAML: a study in a database has nothing else in its folder.
    lines = {line.split(b":")[0] for line in (folder / "settings.yaml").read_bytes().splitlines()}
    return {b"model", b"protocol", b"space", b"recipe", b"learning_rates", b"sampler", b"trials", b"workers"} <= lines


def is_predictions(path: Path) -> bool:
    """Whether the first line is that of `autopeft.saved.predict.write_predictions`."""
    with path.open("rb") as file:
        first = file.readline(_LINE)
    return (
        first.strip() == b"label,score,text"
        or re.match(rb'\{"label": .*, "score": [0-9.e-]+, "text": "', first) is not None
    )


def is_retraining(path: Path) -> bool:
    """Whether it is what `autopeft train --to` wrote."""
    return {"name", "objective", "seeds", "values", "summary", "counts"} <= read_mapping(path).keys()


def is_report(path: Path) -> bool:
    """Whether it is a page of `autopeft report`, or its data."""
    if path.suffix.lower() == ".json":
        return {"title", "facts", "caveats", "front", "timing"} <= read_mapping(path).keys()
    return _holds(path, b"Parameters are counted in three ways. Nominal is")


def is_picture(path: Path) -> bool:
    """Whether it is a picture that names this package as its maker."""
    return path.stat().st_size < 2**26 and _holds(path, PRODUCER.encode())


def is_architecture(path: Path) -> bool:
    """Whether it is what `Architecture.save` or `autopeft transfer` wrote."""
    found = read_mapping(path)
    placements = found.get("placements")
    # Many a file of somebody else's has a list of this name, and an empty one says nothing.
    rows = placements if isinstance(placements, list) else []
    is_plain = bool(rows) and all(isinstance(row, list) and len(row) in (3, 4) for row in rows)
    return is_plain or {"architecture", "transferred_from"} <= found.keys()


def is_summary(folder: Path) -> bool:
    """Whether it holds results of `autopeft experiment`."""
    page = folder / "README.md"
    if page.exists():
        return _holds(page, b"autopeft experiment")
    lines = folder / "cells.jsonl"
    return (lines.exists() and _holds(lines, b'{"cell": ')) or any(map(_is_cell, folder.glob("*.json")))


def _is_cell(path: Path) -> bool:
    """Whether it is a result of one cell, or of the sweep that all share."""
    found = read_mapping(path).keys()
    return {"title", "objective", "settings", "versions"} <= found or {"chosen", "values"} <= found
