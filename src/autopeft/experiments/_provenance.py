"""Where a result comes from: settings, data and versions, without the place of a folder on somebody's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.session import Session
from autopeft.study.identity import versions


def provenance(session: Session, *, open_test: bool) -> dict[str, Any]:
    """Settings, facts about the parts of the data, and versions, JSON-ready.

    Paths of the data are relative to their folder, wherever that lies; the digests say which data it was.

    Args:
        open_test: whether the test part is described too, which opens it.
    """
    settings = session.settings.as_dict()
    splits = session.evaluator.splits.describe(open_test=open_test)
    # Results are kept with the source: where the data lay on a machine is nobody's affair and no reader's help.
    folder = settings.pop("data")
    if folder is not None:
        for part in (splits["train"], splits["validation"], splits["test"]):
            part["from"] = part["from"].replace(f"{Path(folder)}/", "")
    return {"settings": settings, "splits": splits, "versions": versions()}
