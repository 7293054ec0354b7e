"""What a command imports is there for good."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from autopeft.collecting import import_for_good


def test_what_is_imported_for_good_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_for_good.py").write_text("held = [[n] for n in range(5000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before, was_enabled = gc.get_freeze_count(), gc.isenabled()
    try:
        import_for_good("imported_for_good")
        assert gc.isenabled() == was_enabled
        frozen = gc.get_freeze_count()
        assert frozen >= before + 5000
        # In a process that has it all already nothing more is kept, or what a training left would be.
        kept = [[n] for n in range(5000)]
        import_for_good("imported_for_good")
        assert gc.get_freeze_count() <= frozen
        assert len(kept) == 5000
    finally:
        gc.unfreeze()
        sys.modules.pop("imported_for_good", None)
