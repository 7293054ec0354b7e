"""A promise of a kind: what every member keeps, as a function that asserts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Check = Callable[..., None]


@dataclass(frozen=True)
class Promise:
    """What every member of a kind keeps.

    Args:
        name: a sentence, its words joined by underscores.
        check: asserts it of a subject; what it takes is the kind's affair.
        applies: whether it says anything of the subject; None for of all.
    """

    name: str
    check: Check
    applies: Callable[..., bool] | None = None

    def is_about(self, *subject: Any) -> bool:
        """Whether it says anything of `subject`."""
        return self.applies is None or self.applies(*subject)


def promise(check: Check) -> Promise:
    """The promise that the function `check` asserts, under its name."""
    return Promise(check.__name__.strip("_"), check)


def promise_if(applies: Callable[..., bool]) -> Callable[[Check], Promise]:
    """The same for the subjects for which `applies` is true."""
    return lambda check: Promise(check.__name__.strip("_"), check, applies)


def promises_in(names: Mapping[str, Any]) -> tuple[Promise, ...]:
    """Every promise of a module, in the order in which they stand there."""
    return tuple(value for value in names.values() if isinstance(value, Promise))


def keep(what: str, promises: tuple[Promise, ...], *subject: Any) -> list[str]:
    """Check all promises that are about `subject`; their names.

    Raises:
        ExceptionGroup: some are not kept; with the failure of each.
    """
    about = [item for item in promises if item.is_about(*subject)]
    broken = []
    for item in about:
        try:
            item.check(*subject)
        except Exception as error:
            error.add_note(f"{what} does not keep: {item.name.replace('_', ' ')}")
            # All promises are tried, since a member of one's own that breaks several is mended once.
            broken.append(error)
    if broken:
        raise ExceptionGroup(f"{what} breaks {len(broken)} of {len(about)} promises", broken)
    return [item.name for item in about]


@contextmanager
def refuses(kind: type[Exception], *words: str) -> Iterator[None]:
    """Assert that what is done inside is refused with an error of this `kind` whose message has all `words`."""
    message = None
    try:
        yield
    except kind as error:
        message = str(error)
    assert message is not None, f"{kind.__name__} was to be raised, but nothing was."
    missing = [word for word in words if word not in message]
    assert not missing, f"The message {message!r} does not say {missing[0]!r}."
