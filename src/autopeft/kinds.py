"""Members of a kind (method, backbone, task, sampler) are found by file name.

A kind is a package whose modules each export one mapping, ``MEMBERS``, from name to member. A user's own
member is named by a dotted path, ``my_lab.mixers:MIXER``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from autopeft.errors import SettingsError, UnknownNameError


@cache
def members(package: str) -> Mapping[str, Any]:
    """Every member of the kind that lives in `package`, by name, in alphabetical order of the files.

    Raises:
        SettingsError: two files export the same name.
    """
    found: dict[str, Any] = {}
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{package}.{info.name}")
        for name, member in module.MEMBERS.items():
            if name in found:
                raise SettingsError(f"Two files of {package} export {name!r}; the second is {info.name}.py.")
            found[name] = member
    return found


def lookup(package: str, what: str, name: str) -> Any:
    """The member called `name`, or the object at the dotted path ``module:attribute``.

    Raises:
        UnknownNameError: there is no such member; the message names the nearest one.
        SettingsError: the dotted path cannot be imported.
    """
    known = members(package)
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UnknownNameError(what, name, known)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"The {what} {name!r} cannot be imported: {error}.") from error
