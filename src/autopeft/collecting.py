"""Python's search for garbage, which is left out where thousands of objects are made that stay."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it no garbage is looked for; what has no owner any more is still freed at once.

    Python looks whenever many objects were made. While a study of thousands of trials is read nothing that was made is
    garbage, and looking at all of it again and again takes a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_for_good(*modules: str) -> None:
    """Import `modules` in the process of a command, and never look for garbage among what stands then.

    Imports make seven hundred thousand objects of which none is garbage, and looking at them takes a sixth of the
    processor time in which torch and transformers come. Only for a process that is ours from its beginning: garbage
    that another program has made until then would stay.
    """
    # Called again where it has been before, it would keep what training left.
    if all(module in sys.modules for module in modules):
        return
    with uncollected():
        for module in modules:
            importlib.import_module(module)
        gc.freeze()
