"""Everything that `autopeft` raises on purpose.

::

    AutopeftError
    ├── InputError                 the user can mend it; raised before any work, exit code 2
    │   ├── UnknownNameError       a model, task, method, sampler or setting that does not exist
    │   ├── SettingsError          a settings file or option that cannot be used
    │   ├── DataError              a data file, column or label that cannot be used
    │   ├── BackboneError          a model that cannot be loaded or is of an unknown family
    │   ├── ArchitectureError      an architecture that does not fit the backbone
    │   ├── BudgetError            a parameter budget that nothing satisfies
    │   ├── StorageError           a storage that cannot be read or opened: its path, URL, driver or server
    │   └── StudyMismatchError     a stored study that differs from the one asked for
    ├── WriteError                 a file cannot be written; what stood there before still stands
    ├── SpaceExhaustedError        every architecture of the space has been measured
    ├── SearchIncompleteError      trials were given up, and can be reopened; the rest is measured; exit code 3
    ├── ProposalFailure            a sampler failed at its own work; what was measured is kept
    └── TrialFailure               one trial could not be measured; the search goes on
        ├── OutOfMemoryFailure     kind "oom"
        ├── NonFiniteFailure       kind "nan"
        └── InfeasibleFailure      kind "infeasible"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutopeftError(Exception):
    """Root of every error of this package."""


class InputError(AutopeftError, ValueError):
    """The request cannot be served as it stands. Raised before work starts; nothing has been written."""


class UnknownNameError(InputError):
    """A name that is not among the known ones.

    Args:
        what: the kind of thing that was named, for example ``"task"``.
        name: what was asked for.
        known: every name that exists; the nearest is suggested.
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        # One suggestion: several would have to be weighed, and all names follow anyhow.
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
        self.name = name
        self.known = tuple(names)


class SettingsError(InputError):
    """A settings file or a command-line option that cannot be used."""


class WrongTypeError(InputError, TypeError):
    """What was given to a function is of a type that it does not take."""


class DataError(InputError):
    """A data file, a column or a label that cannot be used."""


class BackboneError(InputError):
    """A model that cannot be loaded, or whose family is not described under `autopeft.backbones`."""


class ArchitectureError(InputError):
    """An architecture that does not fit the backbone or the methods that exist."""


class BudgetError(InputError):
    """A parameter budget that cannot be read, or that no architecture of the space satisfies."""


class StorageError(InputError):
    """A storage that cannot be used: a path or URL that cannot be read, a missing driver, a server that refuses."""


class StudyMismatchError(InputError):
    """A stored study whose space, task or settings differ from the ones asked for."""


class WriteError(AutopeftError, OSError):
    """A file or folder cannot be written: the disk is full, or a place is protected. No part of it is left."""


class SpaceExhaustedError(AutopeftError):
    """Every feasible architecture has been measured or is being measured."""


class SearchIncompleteError(AutopeftError):
    """A search has ended, but trials are missing whose workers were lost too often; they can be reopened."""


class ProposalFailure(AutopeftError):
    """A sampler could not propose for a known reason; `kind` is stored with the study, as that of a trial's failure."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class TrialFailure(AutopeftError):
    """One trial failed for a known reason. `kind` is stored with the trial."""

    kind = "crash"


class OutOfMemoryFailure(TrialFailure):
    """The device had too little memory for this architecture."""

    kind = "oom"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or this machine, had too little memory."""
    # Named rather than imported: a study does not need PyTorch.
    is_torch = any(t.__module__ == "torch" and t.__name__ == "OutOfMemoryError" for t in type(error).__mro__)
    is_allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError | OutOfMemoryFailure) or is_torch or is_allocator


class NonFiniteFailure(TrialFailure):
    """The loss or the metric became NaN or infinite."""

    kind = "nan"


class InfeasibleFailure(TrialFailure):
    """The architecture violates a constraint that could only be seen by building it."""

    kind = "infeasible"
