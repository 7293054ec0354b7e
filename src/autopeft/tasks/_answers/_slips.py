"""Labels that look like slips of the pen: refused until somebody says that they are meant, by saying the kind."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

_COMMA = re.compile(r"[-+]?\d+,\d+")
_ABSENT = frozenset({"n/a", "na", "#n/a", "null", "?", "--"})  # "none" and "-" may well be classes
_MOST_WHOLE_NUMBERS = 20
_FEWEST_ROWS = 20
_MOST_SHARE = 0.5
_SHOWN = 5
_LONGEST_NAME = 200


def slips(values: Sequence[Any], keys: Sequence[str]) -> list[str]:
    """A phrase for everything about labels taken for classes that a person rarely means.

    Args:
        values: the raw labels, none of them missing.
        keys: by which classes they are told apart, see `autopeft.tasks._answers.label_key`; one a value.
    """
    counts = Counter(keys)
    return [*_odd_values(values), *_odd_classes(counts, len(keys))]


def _odd_values(values: Sequence[Any]) -> Iterator[str]:
    texts = Counter(value.strip() for value in values if isinstance(value, str))
    commas = {text: count for text, count in texts.items() if _COMMA.fullmatch(text)}
    if commas:
        yield f"{_some(commas)} look like numbers with a decimal comma (write 3.7, not 3,7)"
    absent = {text: count for text, count in texts.items() if text.lower() in _ABSENT}
    if absent:
        yield f"{_some(absent)} look like labels that are missing"


def _odd_classes(counts: Counter[str], n_rows: int) -> Iterator[str]:
    alike: dict[str, dict[str, int]] = defaultdict(dict)
    for name, count in counts.items():
        alike[" ".join(name.casefold().split())][name] = count
    twins = [_some(names) for names in alike.values() if len(names) > 1]
    if twins:
        yield f"some differ in case or blanks only: {'; '.join(twins[:_SHOWN])}"
    # Text and label were most likely taken for each other.
    if long := [name for name in counts if len(name) > _LONGEST_NAME]:
        yield f"{len(long)} are longer than {_LONGEST_NAME} letters, as texts are"
    are_numbers = all(name.removeprefix("-").isdecimal() for name in counts)
    if are_numbers and len(counts) > _MOST_WHOLE_NUMBERS:
        yield f"{len(counts)} different whole numbers may be classes, or numbers to be predicted"
    # In a handful of rows, as somebody tries the program with, most labels differ without being wrong.
    elif n_rows >= _FEWEST_ROWS and len(counts) > _MOST_SHARE * n_rows:
        yield f"{len(counts)} of {n_rows} labels are different"
    single = {name: count for name, count in counts.items() if count == 1}
    # A class with one example can be in one part alone, and is most often a misspelling of another.
    if single and len(counts) > 2:
        yield f"classes with one example: {', '.join(map(repr, sorted(single)[:_SHOWN]))} ({len(single)} in all)"


def _some(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name!r} ({count})" for name, count in sorted(counts.items())[:_SHOWN])
    return shown + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")
