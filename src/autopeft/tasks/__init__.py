"""Tasks, one benchmark a file; how they are loaded is in `_load`, what they are in `_task`."""

from __future__ import annotations

from autopeft.tasks._examples import Examples
from autopeft.tasks._load import PACKAGE, load, lookup, names
from autopeft.tasks._protocols import PROTOCOLS, Source, Splits
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Hub, Task, one_per_row

__all__ = [
    "PACKAGE",
    "PROTOCOLS",
    "Examples",
    "Hub",
    "Source",
    "Splits",
    "Table",
    "Task",
    "load",
    "lookup",
    "names",
    "one_per_row",
]
