"""Metrics of what a model writes, one file each or a few that are alike; what one is, is in `_text_metric`.

To add one, add a file here that exports ``MEMBERS = {"name": TextMetric(...)}``: it can then be asked for by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopeft.kinds import members
from autopeft.tasks._text_metrics._text_metric import TextMetric

__all__ = ["PACKAGE", "TextMetric", "found", "missing"]

PACKAGE = "autopeft.tasks._text_metrics"
"""Where the metrics of texts are."""


def found() -> Mapping[str, TextMetric]:
    """Every metric of texts by name."""
    return members(PACKAGE)


def missing(names: Sequence[str]) -> list[str]:
    """A phrase for each metric of `names` whose package is not installed; names of other metrics are passed over."""
    known = found()
    return [known[name].absence(name) for name in names if name in known and not known[name].is_installed()]
