"""What a result says of its origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from autopeft.experiments._provenance import provenance
from autopeft.session import Session
from small_case import Case


def glue(folder: Path) -> Path:
    """SST-2 as made-up JSONL with the Hub's names."""
    (folder / "glue" / "sst2").mkdir(parents=True)
    for seed, (part, n) in enumerate({"train": 64, "validation": 16}.items()):
        examples = tiny.sentiment(n, seed=seed)
        rows = [
            {"sentence": t, "label": int(label)} for (t,), label in zip(examples.texts, examples.labels, strict=True)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "glue" / "sst2" / f"{part}.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize("protocol", ["holdout", "bipeft"])
def test_the_place_of_the_data_is_not_told_but_which_data_it_was(case: Case, tmp_path: Path, protocol: str) -> None:
    folder = glue(tmp_path / "data")
    session = Session.build(case.settings(task="sst2", data=f"{folder}/", files=None, protocol=protocol))
    found = provenance(session, open_test=True)
    assert str(tmp_path) not in json.dumps(found)
    assert "data" not in found["settings"]
    assert found["settings"]["task"] == "sst2"
    assert "glue/sst2/validation.jsonl" in found["splits"]["test"]["from"]
    assert all(len(found["splits"][part]["digest"]) == 16 for part in ("train", "validation", "test"))
    assert {"autopeft", "torch"} <= set(found["versions"])
    assert "digest" not in provenance(session, open_test=False)["splits"]["test"]
