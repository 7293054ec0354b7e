"""What a metric of texts is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from autopeft.tasks._examples import Examples


@dataclass(frozen=True)
class TextMetric:
    """A metric of texts that a model wrote; larger is better.

    Args:
        measure: ``measure(said, examples)``, a text an example and at least one, to a number between 0 and 1.
        is_general: whether it needs nothing but gold texts (`Examples.answers`), so that it fits every task of free
            text; one that reads more is named by the tasks that have it.
        package: a package beyond those that autopeft always brings; empty where there is none.
        extra: the extra of autopeft that brings it.
    """

    measure: Callable[[Sequence[str], Examples], float]
    is_general: bool = True
    package: str = ""
    extra: str = ""

    def is_installed(self) -> bool:
        """Whether everything that it needs is there."""
        return not self.package or find_spec(self.package) is not None

    def absence(self, name: str) -> str:
        """What to do where it is not, as a phrase; `name` is the metric's."""
        return f"the metric {name!r} needs {self.package}: pip install 'autopeft[{self.extra}]'"
