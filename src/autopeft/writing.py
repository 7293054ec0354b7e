"""Files that are there whole or not at all, in places that can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.errors import SettingsError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes the place of `path` in one move when the block ends.

    A reader, and whoever comes after a crash, finds the old file or the new one, never a part. When the block fails the
    old one stays. Folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_writable(*folders: Path | None, **files: Path | None) -> None:
    """Make sure that what is to be written can be: better now than after hours.

    Args:
        folders: to be made or written into; None for none.
        files: by the name of the option that asks for them.

    Raises:
        SettingsError: a place is protected, or of the other kind.
    """
    wanted = {option: path for option, path in files.items() if path is not None}
    for option, path in wanted.items():
        if path.is_dir():
            raise SettingsError(f"--{option} takes a file, but {str(path)!r} is a folder.")
        if path.exists() and not os.access(path, os.W_OK):
            raise SettingsError(f"--{option} takes a file that can be written, but {str(path)!r} is protected.")
    for folder in (*folders, *(path.absolute().parent for path in wanted.values())):
        if folder is None:
            continue
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise SettingsError(
                f"Nothing can be written in {str(folder)!r}: {str(there)!r} is no folder or is protected."
            )
