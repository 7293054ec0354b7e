"""Finding a study in a storage, or making it there."""

from __future__ import annotations

import time
from dataclasses import replace

from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection

from autopeft.errors import InputError, UnknownNameError
from autopeft.spaces.lattice import SearchSpace
from autopeft.study.database import Store, optuna_logs_as_ours
from autopeft.study.identity import KEY, Identity, check
from autopeft.study.record import to_json

_PATIENCE_SECONDS = 5.0


def find_or_make(store: Store, name: str, asked: Identity) -> tuple[int, Identity]:
    """Optuna's key of the study called `name`, and its stored identity; it is made when there is none.

    Raises:
        InputError: the name is empty, or the study was not made by this package.
        StudyMismatchError: the stored study differs from `asked`; nothing has been written.
    """
    if not name:
        raise InputError("A study needs a name.")
    try:
        key, is_made = store.backend.get_study_id_from_name(name), False
    except KeyError:
        key, is_made = _made(store, name)
    if is_made:
        _write(store, key, asked)
    stored = _read(store, key, name, asked)
    check(stored, asked, name, store.label)
    return key, stored


def find(store: Store, name: str | None, space: SearchSpace | None) -> tuple[int, str, Identity]:
    """Optuna's key, the name and the identity of a study that exists.

    Args:
        name: None where the storage holds one study only.
        space: compared with the stored one when given.

    Raises:
        InputError: there is no study, or there are several and no name is given, or it is not of this package.
        UnknownNameError: there is no study called `name`.
        StudyMismatchError: the stored space differs from `space`.
    """
    keys = {item.study_name: item._study_id for item in store.backend.get_all_studies()}
    if name is not None and name not in keys:
        raise UnknownNameError("study", name, keys)
    if name is None and len(keys) != 1:
        listed = f"several studies, name one: {', '.join(sorted(keys))}" if keys else "no study"
        raise InputError(f"The storage {store.label} holds {listed}.")
    chosen = name if name is not None else next(iter(keys))
    stored = _read(store, keys[chosen], chosen, None)
    if space is not None:
        asked = replace(stored, space=to_json(space.as_dict()), fingerprint=space.fingerprint)
        check(stored, asked, chosen, store.label)
    return keys[chosen], chosen, stored


def _directions() -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]  # the metric, and the cost whichever it is


def _made(store: Store, name: str) -> tuple[int, bool]:
    try:
        with optuna_logs_as_ours():
            return store.backend.create_new_study(_directions(), name), True
    except DuplicatedStudyError:  # another worker was faster
        return store.backend.get_study_id_from_name(name), False


def _write(store: Store, key: int, identity: Identity) -> None:
    names = [identity.objective, identity.cost.key]
    store.backend.set_study_system_attr(key, "study:metric_names", names)  # Optuna's dashboard shows them
    store.backend.set_study_user_attr(key, KEY, identity.as_dict())


def _read(store: Store, key: int, name: str, asked: Identity | None) -> Identity:
    """The stored identity. One that its maker has yet to write is waited for; if the maker died, `asked` is written."""
    patience = time.monotonic() + _PATIENCE_SECONDS
    # Optuna makes a study in one transaction and its attributes in the next, so that another worker may come in
    # between.
    while (facts := store.backend.get_study_user_attrs(key).get(KEY)) is None:
        is_ours = store.backend.get_study_directions(key) == _directions()
        if asked is None or not is_ours or store.backend.get_all_trials(key, deepcopy=False):
            raise InputError(f"The study {name!r} in {store.label} was not made by autopeft.")
        if time.monotonic() > patience:
            _write(store, key, asked)
        time.sleep(0.05)
    return Identity.from_dict(facts, name)
