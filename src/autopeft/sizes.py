"""Sizes in bytes as a person writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from autopeft.errors import SettingsError

_UNITS: Mapping[str, int] = MappingProxyType(
    {"": 1, **{f"{letter}B": 1000**n for n, letter in enumerate("KMGT", 1)}}
    | {f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", 1)}
)


def bytes_of(text: str) -> int:
    """The bytes that a text such as "10GB" (10⁹ each), "10GiB" (2³⁰ each) or a whole number means.

    Raises:
        SettingsError: it means none, or less than one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)?", text.strip())
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise SettingsError(f"A size is written as 10GB, 512MiB or a number of bytes, but got {text!r}.")
    return size
