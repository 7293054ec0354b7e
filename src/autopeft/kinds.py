"""Members of a kind (method, backbone, task, sampler) are found by file name.

A kind is a package whose modules each export one mapping, ``MEMBERS``, from name to member; a module whose name
begins with an underscore is what the members stand on, and is passed over. A user's own member is named by a dotted
path, ``my_lab.mixers:MIXER``; its package is installed, or lies in the folder in which the program is called.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from autopeft.errors import SettingsError, UnknownNameError


@cache
def members(*packages: str) -> Mapping[str, Any]:
    """Every member of the kind that lives in `packages`, by name, in alphabetical order of the files of each.

    Raises:
        SettingsError: two files export the same name.
    """
    found: dict[str, Any] = {}
    for package in packages:
        for file in _files(package):
            for name, member in importlib.import_module(f"{package}.{file}").MEMBERS.items():
                if name in found:
                    raise SettingsError(
                        f"Two files of {' and '.join(packages)} export {name!r}; the second is {file}.py."
                    )
                found[name] = member
    return found


def _files(package: str) -> list[str]:
    # The package says where its files are, so that one that is installed as an archive works as well.
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(info.name for info in found if not info.name.startswith("_"))


def lookup(what: str, name: str, *packages: str) -> Any:
    """The member called `name`, or the object at the dotted path ``module:attribute``.

    Raises:
        UnknownNameError: there is no such member; the message names the nearest one.
        SettingsError: the dotted path cannot be imported.
    """
    known = members(*packages)
    if name in known:
        return known[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UnknownNameError(what, name, known)
    # Python has errors of its own for an empty name and for one that begins with a dot.
    if not all(part.isidentifier() for part in module.split(".")):
        raise SettingsError(f"The {what} {name!r} is no name, and no dotted path such as my_lab.mixers:MIXER.")
    _append_current_folder()
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"The {what} {name!r} cannot be imported: {error}.") from error


def _append_current_folder() -> None:
    """Let packages in the folder of the call be imported, after everything else.

    At the end of the path, and only when somebody names one: a ``queue.py`` that happens to lie there must never take
    the place of Python's own, which is why workers are started without that folder on their path.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
